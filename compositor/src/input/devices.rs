//! The input devices of a session: libinput, whose descriptor the reactor watches itself.
//!
//! A mouse speaks twice in each frame. On the way through calloop each time would cost five system calls more.
//!
//! Owns: libinput's context, when it is asked, and what of its events is for us. Does not own: what they do ([`super`]).

use std::os::fd::AsFd as _;

use rustix::event::epoll::EventFlags;
use smithay::backend::input::InputEvent;
use smithay::backend::libinput::{LibinputInputBackend, LibinputSessionInterface, PointerScrollAxis};
use smithay::backend::session::Session as _;
use smithay::backend::session::libseat::LibSeatSession;
use smithay::reexports::input::event::{DeviceEvent, KeyboardEvent, PointerEvent};
use smithay::reexports::input::{Event, Libinput};

use crate::backend::kms::StartError;
use crate::reactor::{Source, Watch};
use crate::state::State;

/// The devices of a session's seat.
#[derive(Debug)]
pub struct Devices {
    context: Libinput,
}

impl Devices {
    /// Finds the seat's devices, and has the reactor hear of them.
    ///
    /// # Errors
    /// When udev knows no such seat, or the descriptor cannot be watched.
    fn open(session: LibSeatSession, watch: &Watch) -> Result<Self, StartError> {
        let failed = |reason: String| StartError::Source { what: "libinput", reason };
        let seat = session.seat();
        let mut context = Libinput::new_with_udev(LibinputSessionInterface::from(session));
        context.udev_assign_seat(&seat).map_err(|()| failed("no udev seat".to_owned()))?;
        watch.add(context.as_fd(), Source::Input, EventFlags::IN).map_err(|err| failed(err.to_string()))?;
        Ok(Self { context })
    }

    /// The session was switched away: the devices are let go.
    fn suspend(&self) {
        self.context.suspend();
    }

    /// The session is back.
    fn resume(&mut self) {
        if self.context.resume().is_err() {
            tracing::warn!("libinput did not resume");
        }
    }
}

impl State {
    /// Finds the input devices of the session, if there is one and they have not been looked for.
    ///
    /// # Errors
    /// See [`StartError::Source`].
    pub(crate) fn open_input(&mut self, watch: &Watch) -> Result<(), StartError> {
        let Some(kms) = self.backend.kms().filter(|_| self.input.devices.is_none()) else { return Ok(()) };
        let (active, Some(session)) = (kms.is_active(), kms.session()) else { return Ok(()) };
        let devices = Devices::open(session.clone(), watch)?;
        if !active {
            devices.suspend();
        }
        self.input.devices = Some(devices);
        // What is plugged in already is waiting.
        self.input_readable();
        Ok(())
    }

    /// Lets the devices go with the session.
    pub(crate) fn suspend_input(&mut self) {
        if let Some(devices) = &self.input.devices {
            devices.suspend();
        }
    }

    /// Takes the devices back with the session.
    pub(crate) fn resume_input(&mut self) {
        if let Some(devices) = &mut self.input.devices {
            devices.resume();
        }
    }

    /// Handles what the devices have to say.
    pub(crate) fn input_readable(&mut self) {
        let Some(devices) = &self.input.devices else { return };
        // One more reference, since an event may do anything to the state.
        let mut context = devices.context.clone();
        if let Err(err) = context.dispatch() {
            tracing::error!(%err, "the input devices are gone");
            self.runtime.stop(1);
            return;
        }
        for event in &mut context {
            if let Some(event) = translate(event) {
                self.input_event(event);
            }
        }
    }
}

/// What is handled of libinput's events.
fn translate(event: Event) -> Option<InputEvent<LibinputInputBackend>> {
    let axis = |event| InputEvent::PointerAxis { event };
    Some(match event {
        Event::Device(DeviceEvent::Added(event)) => {
            InputEvent::DeviceAdded { device: smithay::reexports::input::event::EventTrait::device(&event) }
        }
        Event::Device(DeviceEvent::Removed(event)) => {
            InputEvent::DeviceRemoved { device: smithay::reexports::input::event::EventTrait::device(&event) }
        }
        Event::Keyboard(KeyboardEvent::Key(event)) => InputEvent::Keyboard { event },
        Event::Pointer(PointerEvent::Motion(event)) => InputEvent::PointerMotion { event },
        Event::Pointer(PointerEvent::MotionAbsolute(event)) => InputEvent::PointerMotionAbsolute { event },
        Event::Pointer(PointerEvent::Button(event)) => InputEvent::PointerButton { event },
        Event::Pointer(PointerEvent::ScrollWheel(event)) => axis(PointerScrollAxis::Wheel(event)),
        Event::Pointer(PointerEvent::ScrollFinger(event)) => axis(PointerScrollAxis::Finger(event)),
        Event::Pointer(PointerEvent::ScrollContinuous(event)) => axis(PointerScrollAxis::Continuous(event)),
        _ => return None,
    })
}
