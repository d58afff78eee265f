//! wp_alpha_modifier_v1: factors come with commits, and both errors.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code, reason = "the other harnesses use the rest")]
#[macro_use]
mod wire;

use primeway_protocols::alpha_modifier::{AlphaModifierHandler, AlphaModifierState};
use wayland_client::protocol::{wl_callback, wl_compositor, wl_registry, wl_surface};
use wayland_client::{Proxy as _, delegate_dispatch, delegate_noop};
use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_surface_v1::{
    Error as SurfaceError, WpAlphaModifierSurfaceV1,
};
use wayland_protocols::wp::alpha_modifier::v1::client::wp_alpha_modifier_v1::{Error, WpAlphaModifierV1};
use wayland_server::Display;
use wayland_server::protocol as server;

use wire::{Answered, Globals, Server, Wire};

struct State {
    alpha: AlphaModifierState,
    /// The factor of each commit, in order.
    commits: Vec<Option<u32>>,
}

impl AlphaModifierHandler for State {
    fn alpha_modifier_state(&mut self) -> &mut AlphaModifierState {
        &mut self.alpha
    }
}

primeway_protocols::delegate_alpha_modifier!(State);

global!(State: server::wl_compositor::WlCompositor);
requests! { State:
    wl_compositor::WlCompositor, () => |_state, _compositor, init|
        Request::CreateSurface { id } => init.init(id, ());
    wl_surface::WlSurface, () => |state, surface, _init|
        Request::Commit => state.commits.push(state.alpha.commit(surface));
}

struct Log;
delegate_dispatch!(Log: [wl_registry::WlRegistry: Globals] => Wire<Log>);
delegate_dispatch!(Log: [wl_callback::WlCallback: Answered] => Wire<Log>);
delegate_noop!(Log: ignore wl_surface::WlSurface);
delegate_noop!(Log: wl_compositor::WlCompositor);
delegate_noop!(Log: WpAlphaModifierV1);
delegate_noop!(Log: WpAlphaModifierSurfaceV1);

struct TestClient {
    wire: Wire<Log>,
    manager: WpAlphaModifierV1,
    surface: wl_surface::WlSurface,
}

fn server() -> Server<State> {
    let display = Display::<State>::new().unwrap();
    let handle = display.handle();
    handle.create_global::<State, server::wl_compositor::WlCompositor, ()>(5, ());
    let alpha = AlphaModifierState::new::<State>(&handle);
    Server { display, state: State { alpha, commits: Vec::new() } }
}

fn connect(server: &mut Server<State>) -> TestClient {
    let wire = Wire::connect(server, &mut Log);
    let (manager, compositor) = (wire.bind(1), wire.bind::<wl_compositor::WlCompositor>(5));
    let surface = compositor.create_surface(&wire.handle(), ());
    TestClient { wire, manager, surface }
}

#[test]
fn a_factor_counts_from_the_next_commit_on_and_goes_with_its_object() {
    let mut server = server();
    let mut client = connect(&mut server);
    client.surface.commit();
    let object = client.manager.get_surface(&client.surface, &client.wire.handle(), ());
    client.surface.commit();
    object.set_multiplier(1);
    object.set_multiplier(u32::MAX / 2);
    // The factory may go.
    client.manager.destroy();
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    assert_eq!((server.state.alpha.surface_objects(), server.state.commits.len()), (1, 2));
    client.surface.commit();
    client.surface.commit();
    object.set_multiplier(0);
    client.surface.commit();
    object.destroy();
    client.surface.commit();
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    let half = Some(u32::MAX / 2);
    assert_eq!(server.state.commits, [None, None, half, half, Some(0), None]);
    assert_eq!(server.state.alpha.surface_objects(), 0);
}

/// The other client goes on.
fn is_served(server: &mut Server<State>, mut client: TestClient) {
    let object = client.manager.get_surface(&client.surface, &client.wire.handle(), ());
    object.set_multiplier(7);
    client.surface.commit();
    client.wire.roundtrip(&mut Log, server).unwrap();
    assert_eq!(server.state.commits.pop(), Some(Some(7)));
    assert_eq!(server.state.alpha.surface_objects(), 1, "the dead client's object is gone");
}

#[test]
fn a_surface_has_one_alpha_object_at_a_time() {
    let mut server = server();
    let (mut client, other) = (connect(&mut server), connect(&mut server));
    let handle = client.wire.handle();
    let first = client.manager.get_surface(&client.surface, &handle, ());
    first.destroy();
    let _second = client.manager.get_surface(&client.surface, &handle, ());
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    client.manager.get_surface(&client.surface, &handle, ());
    let error = client.wire.roundtrip(&mut Log, &mut server).unwrap_err();
    assert_eq!(error.code, u32::from(Error::AlreadyConstructed));
    assert_eq!(error.object_interface, "wp_alpha_modifier_v1");
    is_served(&mut server, other);
}

#[test]
fn no_factor_is_set_on_a_surface_that_is_gone() {
    let mut server = server();
    let (mut client, other) = (connect(&mut server), connect(&mut server));
    let object = client.manager.get_surface(&client.surface, &client.wire.handle(), ());
    client.surface.destroy();
    object.set_multiplier(1);
    let error = client.wire.roundtrip(&mut Log, &mut server).unwrap_err();
    assert_eq!(error.code, u32::from(SurfaceError::NoSurface));
    assert_eq!(error.object_interface, "wp_alpha_modifier_surface_v1");
    assert_eq!(error.object_id, object.id().protocol_id());
    is_served(&mut server, other);
}

#[test]
fn an_object_may_be_destroyed_after_its_surface() {
    let mut server = server();
    let mut client = connect(&mut server);
    let object = client.manager.get_surface(&client.surface, &client.wire.handle(), ());
    client.surface.destroy();
    object.destroy();
    client.wire.roundtrip(&mut Log, &mut server).unwrap();
    assert_eq!(server.state.alpha.surface_objects(), 0);
}
