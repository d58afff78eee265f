//! Input events become focus, keys and pointer motion; a few keys are the compositor's own.
//!
//! | keys | |
//! |---|---|
//! | Ctrl+Alt+F1 … F12 | switch to that virtual terminal |
//! | Ctrl+Alt+Backspace | end the session |
//!
//! It owns the seat and the pointer's image. Where windows are is asked of [`crate::shell`].

mod devices;
mod move_grab;

use std::collections::HashSet;

use smithay::backend::input::{
    AbsolutePositionEvent, Axis, AxisSource, ButtonState, Event, InputBackend, InputEvent, KeyState,
    KeyboardKeyEvent, PointerAxisEvent, PointerButtonEvent, PointerMotionEvent,
};
use smithay::backend::libinput::LibinputInputBackend;
use smithay::input::Seat;
use smithay::input::keyboard::{FilterResult, Keycode, Keysym, ModifiersState, XkbConfig};
use smithay::input::pointer::{AxisFrame, ButtonEvent, Focus, MotionEvent, RelativeMotionEvent};
use smithay::reexports::input as libinput;
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Logical, Point, SERIAL_COUNTER, Serial};

use self::devices::Devices;
use crate::cursor::Cursor;
use crate::state::{State, monotonic};

/// Milliseconds before a key repeats, and repeats per second.
const REPEAT: (i32, i32) = (400, 30);

/// The seat.
#[derive(Debug)]
pub struct Input {
    /// smithay's seat.
    pub seat: Seat<State>,
    /// The pointer's image.
    pub cursor: Cursor,
    /// Devices that can move the pointer; without any, no pointer is shown.
    pub pointers: usize,
    /// Those of the session, once they have been looked for.
    devices: Option<Devices>,
    /// Keys whose press was the compositor's, and whose release is too, whatever the modifiers are by then.
    taken: HashSet<Keycode>,
}

/// Something that the keys ask of the compositor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    SwitchVt(i32),
    Quit,
}

impl Input {
    /// Gives a seat a keyboard and a pointer.
    ///
    /// # Errors
    /// When the keymap cannot be compiled.
    pub fn new(mut seat: Seat<State>) -> Result<Self, smithay::input::keyboard::Error> {
        seat.add_keyboard(XkbConfig::default(), REPEAT.0, REPEAT.1)?;
        seat.add_pointer();
        Ok(Self { seat, cursor: Cursor::default(), pointers: 0, devices: None, taken: HashSet::new() })
    }

    /// Where the pointer is, in the space of all outputs; `None` without a pointing device.
    pub fn position(&self) -> Option<Point<f64, Logical>> {
        let pointer = self.seat.get_pointer().filter(|_| self.pointers > 0)?;
        Some(pointer.current_location())
    }
}

fn action(modifiers: &ModifiersState, keysym: Keysym) -> Option<Action> {
    let raw = keysym.raw();
    // With Ctrl+Alt the default keymaps give the switch keysyms themselves.
    let first = Keysym::XF86_Switch_VT_1.raw();
    if (first..first + 12).contains(&raw) {
        return i32::try_from(raw - first + 1).ok().map(Action::SwitchVt);
    }
    let terminate = keysym == Keysym::BackSpace || keysym == Keysym::Terminate_Server;
    (modifiers.ctrl && modifiers.alt && terminate).then_some(Action::Quit)
}

impl State {
    /// Handles an event of libinput.
    pub fn input_event(&mut self, event: InputEvent<LibinputInputBackend>) {
        match event {
            InputEvent::DeviceAdded { device } => self.device_added(&device, 1),
            InputEvent::DeviceRemoved { device } => self.device_added(&device, -1),
            InputEvent::Keyboard { event } => self.key::<LibinputInputBackend>(&event),
            InputEvent::PointerMotion { event } => {
                let delta = event.delta();
                let Some(pointer) = self.input.seat.get_pointer() else { return };
                let at = pointer.current_location() + delta;
                self.pointer_to(at, Event::time_msec(&event), None);
                let under = self.shell.surface_under(pointer.current_location());
                let relative = RelativeMotionEvent {
                    delta,
                    delta_unaccel: event.delta_unaccel(),
                    utime: Event::time(&event),
                };
                pointer.relative_motion(self, under.map(|(s, at, _)| (s, at)), &relative);
                pointer.frame(self);
            }
            InputEvent::PointerMotionAbsolute { event } => {
                let area = self.work_area();
                let at = area.loc.to_f64() + event.position_transformed(area.size);
                self.pointer_to(at, Event::time_msec(&event), None);
                if let Some(pointer) = self.input.seat.get_pointer() {
                    pointer.frame(self);
                }
            }
            InputEvent::PointerButton { event } => self.button::<LibinputInputBackend>(&event),
            InputEvent::PointerAxis { event } => self.axis::<LibinputInputBackend>(&event),
            _ => {}
        }
    }

    fn device_added(&mut self, device: &libinput::Device, by: isize) {
        if device.has_capability(libinput::DeviceCapability::Pointer) {
            self.input.pointers = self.input.pointers.saturating_add_signed(by);
            self.queue_redraw_all();
        }
    }

    fn key<B: InputBackend>(&mut self, event: &impl KeyboardKeyEvent<B>) {
        let Some(keyboard) = self.input.seat.get_keyboard() else { return };
        let serial = SERIAL_COUNTER.next_serial();
        let (code, pressed) = (event.key_code(), event.state());
        let time = event.time_msec();
        let action = keyboard.input(self, code, pressed, serial, time, |state, modifiers, key| {
            if pressed == KeyState::Released {
                let taken = state.input.taken.remove(&code);
                return if taken { FilterResult::Intercept(None) } else { FilterResult::Forward };
            }
            match action(modifiers, key.modified_sym()) {
                Some(action) => {
                    state.input.taken.insert(code);
                    FilterResult::Intercept(Some(action))
                }
                None => FilterResult::Forward,
            }
        });
        match action.flatten() {
            Some(Action::SwitchVt(vt)) => {
                if let Some(kms) = self.backend.kms() {
                    kms.change_vt(vt);
                }
            }
            Some(Action::Quit) => self.runtime.stop(0),
            None => {}
        }
    }

    /// Moves the pointer, inside the outputs.
    fn pointer_to(&mut self, at: Point<f64, Logical>, time: u32, serial: Option<Serial>) {
        let Some(pointer) = self.input.seat.get_pointer() else { return };
        let area = self.space();
        let clamp =
            |v: f64, start: i32, len: i32| v.clamp(f64::from(start), f64::from((start + len - 1).max(start)));
        let location: Point<f64, Logical> =
            (clamp(at.x, area.loc.x, area.size.w), clamp(at.y, area.loc.y, area.size.h)).into();
        let under = self.shell.surface_under(location).map(|(surface, at, _)| (surface, at));
        let serial = serial.unwrap_or_else(|| SERIAL_COUNTER.next_serial());
        pointer.motion(self, under, &MotionEvent { location, serial, time });
        self.queue_redraw_all();
    }

    /// The outputs are others: the pointer stays inside of them, and is over what is there now.
    pub(crate) fn pointer_stays(&mut self) {
        let Some(at) = self.input.position() else { return };
        let now = monotonic().as_millis() as u32;
        self.pointer_to(at, now, None);
        if let Some(pointer) = self.input.seat.get_pointer() {
            pointer.frame(self);
        }
    }

    fn button<B: InputBackend>(&mut self, event: &impl PointerButtonEvent<B>) {
        let Some(pointer) = self.input.seat.get_pointer() else { return };
        let serial = SERIAL_COUNTER.next_serial();
        if event.state() == ButtonState::Pressed && !pointer.is_grabbed() {
            let under = self.shell.surface_under(pointer.current_location());
            self.focus(under.map(|(.., window)| window), serial);
        }
        let (button, state, time) = (event.button_code(), event.state(), event.time_msec());
        pointer.button(self, &ButtonEvent { serial, time, button, state });
        pointer.frame(self);
    }

    fn axis<B: InputBackend>(&mut self, event: &impl PointerAxisEvent<B>) {
        let Some(pointer) = self.input.seat.get_pointer() else { return };
        let mut frame = AxisFrame::new(event.time_msec()).source(event.source());
        for axis in [Axis::Horizontal, Axis::Vertical] {
            let steps = event.amount_v120(axis);
            // Wheels of old devices report steps only; a step is 15 pixels, as in libinput.
            let amount = event.amount(axis).unwrap_or_else(|| steps.unwrap_or(0.0) * 15.0 / 120.0);
            if amount != 0.0 {
                frame = frame.relative_direction(axis, event.relative_direction(axis)).value(axis, amount);
                if let Some(steps) = steps {
                    frame = frame.v120(axis, steps as i32);
                }
            } else if event.source() == AxisSource::Finger && event.amount(axis) == Some(0.0) {
                frame = frame.stop(axis);
            }
        }
        pointer.axis(self, frame);
        pointer.frame(self);
    }

    /// Gives a window the keyboard and puts it on top; `None` takes the focus away.
    pub fn focus(&mut self, window: Option<WlSurface>, serial: Serial) {
        self.shell.activate(window.as_ref());
        if let Some(keyboard) = self.input.seat.get_keyboard() {
            keyboard.set_focus(self, window, serial);
        }
        self.queue_redraw_all();
    }

    /// Focuses the topmost window, if any.
    pub fn focus_topmost(&mut self) {
        let top = self.shell.topmost();
        self.focus(top, SERIAL_COUNTER.next_serial());
    }

    /// Lets the pointer drag a window, if the client asks with the serial of the press that is going on.
    pub fn start_move(&mut self, window: &WlSurface, serial: Serial) {
        let Some(pointer) = self.input.seat.get_pointer() else { return };
        let (Some(start), Some(geometry)) = (pointer.grab_start_data(), self.shell.geometry(window)) else {
            return;
        };
        if pointer.has_grab(serial) {
            let grab = move_grab::MoveGrab::new(start, window.clone(), geometry.loc);
            pointer.set_grab(self, grab, serial, Focus::Clear);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_documented_keys_are_taken() {
        let held = ModifiersState { ctrl: true, alt: true, ..ModifiersState::default() };
        assert_eq!(action(&held, Keysym::XF86_Switch_VT_3), Some(Action::SwitchVt(3)));
        assert_eq!(action(&held, Keysym::XF86_Switch_VT_12), Some(Action::SwitchVt(12)));
        assert_eq!(action(&held, Keysym::BackSpace), Some(Action::Quit));
        assert_eq!(action(&ModifiersState::default(), Keysym::BackSpace), None);
        assert_eq!(action(&held, Keysym::a), None);
    }
}
