//! The event sources of a session: seat, card and udev. Input devices are [`crate::input`]'s.

use std::time::{Duration, Instant};

use calloop::generic::Generic;
use calloop::{EventSource, Interest, LoopHandle, Mode, Poll, PostAction, Readiness, Token, TokenFactory};
use smithay::backend::session::Event as SessionEvent;
use smithay::backend::session::libseat::LibSeatSessionNotifier;
use smithay::reexports::udev::{EventType, MonitorBuilder};

use super::{Kms, StartError};
use crate::reactor::Watch;
use crate::state::State;

fn source<S>(
    handle: &LoopHandle<'static, State>,
    what: &'static str,
    source: S,
    callback: impl FnMut(S::Event, &mut S::Metadata, &mut State) -> S::Ret + 'static,
) -> Result<(), StartError>
where
    S: EventSource + 'static,
{
    handle
        .insert_source(source, callback)
        .map(|_| ())
        .map_err(|err| StartError::Source { what, reason: err.error.to_string() })
}

/// Connects a started backend to the event loop.
///
/// # Errors
/// When a source cannot be set up.
pub fn insert_sources(
    handle: &LoopHandle<'static, State>,
    watch: &Watch,
    kms: &mut Kms,
    notifier: LibSeatSessionNotifier,
) -> Result<(), StartError> {
    let failed =
        |what| move |err: &dyn std::fmt::Display| StartError::Source { what, reason: err.to_string() };
    if kms.session.is_none() {
        return Err(failed("the session")(&"there is none"));
    }
    source(handle, "the session", SeatSource::new(notifier), |event, (), state| match event {
        SessionEvent::PauseSession => {
            state.suspend_input();
            state.session_paused();
        }
        SessionEvent::ActivateSession => {
            state.resume_input();
            state.session_resumed();
        }
    })?;

    kms.watch_cards(watch)?;

    let monitor = MonitorBuilder::new().and_then(|all| all.match_subsystem("drm")?.listen());
    let monitor = monitor.map_err(|err| failed("udev")(&err))?;
    // smithay's source would list the devices, which has just been done and takes hundreds of system calls.
    source(handle, "udev", Generic::new(monitor, Interest::READ, Mode::Level), |_, monitor, state| {
        for event in monitor.iter() {
            let is_card = event.sysname().as_encoded_bytes().starts_with(b"card");
            match (event.event_type(), event.devnum()) {
                (EventType::Change, Some(device)) => state.connectors_changed(Some(device)),
                // Whose seat it is on, and whether it drives displays, is seen then. Connectors have no number.
                (EventType::Add | EventType::Remove, Some(_)) if is_card => state.devices_changed(),
                _ => {}
            }
        }
        Ok(PostAction::Continue)
    })
}

/// Wake-ups without an event, in one second, that mean that the seat's connection is dead.
const DEAD_WAKEUPS: u32 = 100;

/// The seat's events. When seatd or logind dies, libseat's descriptor stays readable for ever and smithay's source
/// does not tell: this one ends the event loop.
struct SeatSource {
    notifier: LibSeatSessionNotifier,
    since: Instant,
    wakeups: u32,
}

impl SeatSource {
    fn new(notifier: LibSeatSessionNotifier) -> Self {
        Self { notifier, since: Instant::now(), wakeups: 0 }
    }
}

impl EventSource for SeatSource {
    type Event = SessionEvent;
    type Metadata = ();
    type Ret = ();
    type Error = std::io::Error;

    fn process_events<F>(
        &mut self,
        readiness: Readiness,
        token: Token,
        mut callback: F,
    ) -> Result<PostAction, Self::Error>
    where
        F: FnMut(SessionEvent, &mut ()),
    {
        let mut events = 0;
        let action = self.notifier.process_events(readiness, token, |event, meta| {
            events += 1;
            callback(event, meta);
        });
        let action = action.map_err(std::io::Error::other)?;
        if events > 0 || self.since.elapsed() > Duration::from_secs(1) {
            (self.since, self.wakeups) = (Instant::now(), 0);
        } else {
            self.wakeups += 1;
        }
        if self.wakeups < DEAD_WAKEUPS {
            return Ok(action);
        }
        let text = "the seat is lost: seatd or logind has ended; start it and then primeway again";
        Err(std::io::Error::other(text))
    }

    fn register(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
        self.notifier.register(poll, factory)
    }

    fn reregister(&mut self, poll: &mut Poll, factory: &mut TokenFactory) -> calloop::Result<()> {
        self.notifier.reregister(poll, factory)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.notifier.unregister(poll)
    }
}
