//! Dragging a window with the pointer: xdg_toplevel.move.

use smithay::input::SeatHandler;
use smithay::input::pointer::{
    AxisFrame, ButtonEvent, GestureHoldBeginEvent, GestureHoldEndEvent, GesturePinchBeginEvent,
    GesturePinchEndEvent, GesturePinchUpdateEvent, GestureSwipeBeginEvent, GestureSwipeEndEvent,
    GestureSwipeUpdateEvent, GrabStartData, MotionEvent, PointerGrab, PointerInnerHandle,
    RelativeMotionEvent,
};
use smithay::reexports::wayland_server::protocol::wl_surface::WlSurface;
use smithay::utils::{Logical, Point};

use crate::state::State;

type Target = Option<(<State as SeatHandler>::PointerFocus, Point<f64, Logical>)>;
type Handle<'a> = PointerInnerHandle<'a, State>;

/// The drag of one window; it ends when the last button is released.
#[derive(Debug)]
pub struct MoveGrab {
    start: GrabStartData<State>,
    window: WlSurface,
    from: Point<i32, Logical>,
}

impl MoveGrab {
    /// Begins a drag of `window`, whose geometry is at `from`.
    pub fn new(start: GrabStartData<State>, window: WlSurface, from: Point<i32, Logical>) -> Self {
        Self { start, window, from }
    }
}

impl PointerGrab<State> for MoveGrab {
    fn motion(&mut self, data: &mut State, handle: &mut Handle<'_>, _: Target, event: &MotionEvent) {
        handle.motion(data, None, event);
        let by = event.location - self.start.location;
        data.shell.move_to(&self.window, self.from + by.to_i32_round());
        data.queue_redraw_all();
    }

    fn button(&mut self, data: &mut State, handle: &mut Handle<'_>, event: &ButtonEvent) {
        handle.button(data, event);
        if handle.current_pressed().is_empty() {
            handle.unset_grab(self, data, event.serial, event.time, true);
        }
    }

    fn relative_motion(&mut self, d: &mut State, h: &mut Handle<'_>, _: Target, e: &RelativeMotionEvent) {
        h.relative_motion(d, None, e);
    }

    fn axis(&mut self, data: &mut State, handle: &mut Handle<'_>, details: AxisFrame) {
        handle.axis(data, details);
    }

    fn frame(&mut self, data: &mut State, handle: &mut Handle<'_>) {
        handle.frame(data);
    }

    fn gesture_swipe_begin(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GestureSwipeBeginEvent) {
        h.gesture_swipe_begin(d, e);
    }

    fn gesture_swipe_update(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GestureSwipeUpdateEvent) {
        h.gesture_swipe_update(d, e);
    }

    fn gesture_swipe_end(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GestureSwipeEndEvent) {
        h.gesture_swipe_end(d, e);
    }

    fn gesture_pinch_begin(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GesturePinchBeginEvent) {
        h.gesture_pinch_begin(d, e);
    }

    fn gesture_pinch_update(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GesturePinchUpdateEvent) {
        h.gesture_pinch_update(d, e);
    }

    fn gesture_pinch_end(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GesturePinchEndEvent) {
        h.gesture_pinch_end(d, e);
    }

    fn gesture_hold_begin(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GestureHoldBeginEvent) {
        h.gesture_hold_begin(d, e);
    }

    fn gesture_hold_end(&mut self, d: &mut State, h: &mut Handle<'_>, e: &GestureHoldEndEvent) {
        h.gesture_hold_end(d, e);
    }

    fn start_data(&self) -> &GrabStartData<State> {
        &self.start
    }

    fn unset(&mut self, _data: &mut State) {}
}
