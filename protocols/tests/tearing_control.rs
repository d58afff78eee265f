//! wp_tearing_control_manager_v1: hints reach the compositor, and the one error.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "the other harnesses use the rest")]
#[macro_use]
mod wire;

use primeway_protocols::tearing_control::{PresentationHint, TearingControlHandler, TearingControlState};
use wayland_client::protocol::{wl_callback, wl_compositor, wl_registry, wl_surface};
use wayland_client::{Proxy as _, delegate_dispatch, delegate_noop};
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_manager_v1::{
    Error, WpTearingControlManagerV1,
};
use wayland_protocols::wp::tearing_control::v1::client::wp_tearing_control_v1::{
    PresentationHint as ClientHint, WpTearingControlV1,
};
use wayland_server::protocol as server;
use wayland_server::{Display, Resource as _};

use wire::{Answered, Globals, Server, Wire};

struct State {
    tearing: TearingControlState,
    /// Surface and hint, in order.
    hints: Vec<(u32, PresentationHint)>,
}

impl TearingControlHandler for State {
    fn tearing_control_state(&mut self) -> &mut TearingControlState {
        &mut self.tearing
    }

    fn presentation_hint(&mut self, surface: &server::wl_surface::WlSurface, hint: PresentationHint) {
        self.hints.push((surface.id().protocol_id(), hint));
    }
}

primeway_protocols::delegate_tearing_control!(State);

global!(State: server::wl_compositor::WlCompositor);
requests! { State:
    wl_compositor::WlCompositor, () => |_state, _compositor, init|
        Request::CreateSurface { id } => init.init(id, ());
    wl_surface::WlSurface, () => |_state, _surface, _init| ;
}

struct Log;
delegate_dispatch!(Log: [wl_registry::WlRegistry: Globals] => Wire<Log>);
delegate_dispatch!(Log: [wl_callback::WlCallback: Answered] => Wire<Log>);
delegate_noop!(Log: ignore wl_surface::WlSurface);
delegate_noop!(Log: wl_compositor::WlCompositor);
delegate_noop!(Log: WpTearingControlManagerV1);
delegate_noop!(Log: WpTearingControlV1);

struct TestClient {
    wire: Wire<Log>,
    manager: WpTearingControlManagerV1,
    surface: wl_surface::WlSurface,
}

fn server() -> Server<State> {
    let display = Display::<State>::new().unwrap();
    let handle = display.handle();
    handle.create_global::<State, server::wl_compositor::WlCompositor, ()>(5, ());
    let tearing = TearingControlState::new::<State>(&handle);
    Server { display, state: State { tearing, hints: Vec::new() } }
}

fn connect(server: &mut Server<State>) -> TestClient {
    let wire = Wire::connect(server, &mut Log);
    let (manager, compositor) = (wire.bind(1), wire.bind::<wl_compositor::WlCompositor>(5));
    let surface = compositor.create_surface(&wire.handle(), ());
    TestClient { wire, manager, surface }
}

#[test]
fn hints_are_told_of_and_the_objects_end_takes_them_back() {
    let mut server = server();
    let mut client = connect(&mut server);
    let id = client.surface.id().protocol_id();
    let object = client.manager.get_tearing_control(&client.surface, &client.wire.handle(), ());
    object.set_presentation_hint(ClientHint::Async);
    object.set_presentation_hint(ClientHint::Vsync);
    object.set_presentation_hint(ClientHint::Async);
    // The factory may go.
    client.manager.destroy();
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    assert_eq!(server.state.tearing.surface_objects(), 1);
    let hints =
        [PresentationHint::Async, PresentationHint::Vsync, PresentationHint::Async].map(|hint| (id, hint));
    assert_eq!(std::mem::take(&mut server.state.hints), hints);
    object.destroy();
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    assert_eq!(std::mem::take(&mut server.state.hints), [(id, PresentationHint::Vsync)]);
    assert_eq!(server.state.tearing.surface_objects(), 0);
}

#[test]
fn a_surface_has_one_tearing_object_at_a_time() {
    let mut server = server();
    let (mut client, mut other) = (connect(&mut server), connect(&mut server));
    let handle = client.wire.handle();
    let first = client.manager.get_tearing_control(&client.surface, &handle, ());
    first.destroy();
    let _second = client.manager.get_tearing_control(&client.surface, &handle, ());
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    client.manager.get_tearing_control(&client.surface, &handle, ());
    let error = client.wire.roundtrip(&mut Log, &mut server).unwrap_err();
    assert_eq!(error.code, u32::from(Error::TearingControlExists));
    assert_eq!(error.object_interface, "wp_tearing_control_manager_v1");
    let object = other.manager.get_tearing_control(&other.surface, &other.wire.handle(), ());
    object.set_presentation_hint(ClientHint::Async);
    other.wire.roundtrip(&mut Log, &mut server).unwrap();
    assert_eq!(server.state.hints.pop().map(|(_, hint)| hint), Some(PresentationHint::Async));
    assert_eq!(server.state.tearing.surface_objects(), 1, "the dead client's object is gone");
}

#[test]
fn without_its_surface_the_object_is_inert() {
    let mut server = server();
    let mut client = connect(&mut server);
    let object = client.manager.get_tearing_control(&client.surface, &client.wire.handle(), ());
    client.surface.destroy();
    object.set_presentation_hint(ClientHint::Async);
    object.destroy();
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    assert_eq!(server.state.hints, []);
    assert_eq!(server.state.tearing.surface_objects(), 0);
}
