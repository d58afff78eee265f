//! Random lists of legal requests from two clients against the compositor in this process.
//!
//! After every request no client may have an error; at rest the planes must be consistent, and what planes and
//! composition show together must be the same as composition alone; every buffer must come back in the end, and
//! the clients must leave nothing behind. One test alone in its process, because open files are counted.

#![allow(clippy::unwrap_used)]

#[allow(dead_code, reason = "the other headless cases use the rest")]
mod headless_support;

use std::time::{Duration, Instant};

use crate::headless_support::client::{Buffer, Client, Event, Popup, Window};
use crate::headless_support::{Server, blend_tolerance, renderer, run_again_with_gles};
use primeway::cli::Renderer;
use primeway_tests::picture::Pattern;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use wayland_client::Proxy as _;
use wayland_client::protocol::wl_output::Transform;
use wayland_client::protocol::wl_subsurface::WlSubsurface;
use wayland_client::protocol::wl_surface::WlSurface;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::Flags;
use wayland_protocols::wp::viewporter::client::wp_viewport::WpViewport;

/// Most buffers that composition takes turns with.
const TARGETS: usize = 4;
const OUTPUT: (u32, u32) = (160, 128);
/// Open surfaces and buffers of one client.
const MOST: usize = 6;

/// Chooses one of a list whose length is known only later. Smaller numbers choose earlier ones.
#[derive(Debug, Clone, Copy)]
struct Index(u64);

impl Index {
    fn index(self, len: usize) -> usize {
        ((u128::from(self.0) * len as u128) >> 64) as usize
    }
}

#[derive(Debug, Clone)]
enum Op {
    Window(Index),
    Popup(Index, Index),
    Subsurface(Index, i8, i8, Index),
    Close(Index),
    Buffer { kind: u8, size: u8, seed: u32 },
    DestroyBuffer(Index),
    Show(Index, Index),
    Attach(Index, Index),
    Commit(Index),
    Damage(Index),
    Unmap(Index),
    Move(Index, i8, i8),
    Restack(Index, bool),
    Sync(Index, bool),
    Viewport(Index, u8),
    Turn(Index, u8),
    Sizing(Index, u8),
    Ask(Index),
    Leave,
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    let at = || any::<u64>().prop_map(Index);
    prop_oneof![
        3 => at().prop_map(Op::Window),
        1 => (at(), at()).prop_map(|(p, b)| Op::Popup(p, b)),
        4 => (at(), -20i8..90, -20i8..90, at()).prop_map(|(p, x, y, b)| Op::Subsurface(p, x, y, b)),
        1 => at().prop_map(Op::Close),
        4 => (0u8..7, 0u8..4, any::<u32>()).prop_map(|(kind, size, seed)| Op::Buffer { kind, size, seed }),
        1 => at().prop_map(Op::DestroyBuffer),
        12 => (at(), at()).prop_map(|(s, b)| Op::Show(s, b)),
        1 => (at(), at()).prop_map(|(s, b)| Op::Attach(s, b)),
        3 => at().prop_map(Op::Commit),
        1 => at().prop_map(Op::Damage),
        1 => at().prop_map(Op::Unmap),
        2 => (at(), -20i8..90, -20i8..90).prop_map(|(s, x, y)| Op::Move(s, x, y)),
        1 => (at(), any::<bool>()).prop_map(|(s, above)| Op::Restack(s, above)),
        2 => (at(), any::<bool>()).prop_map(|(s, on)| Op::Sync(s, on)),
        1 => (at(), 0u8..4).prop_map(|(s, how)| Op::Viewport(s, how)),
        1 => (at(), 0u8..8).prop_map(|(s, how)| Op::Turn(s, how)),
        2 => (at(), 0u8..4).prop_map(|(s, how)| Op::Sizing(s, how)),
        2 => at().prop_map(Op::Ask),
        1 => Just(Op::Leave),
        1 => Just(Op::Settle),
    ]
}

#[derive(Debug)]
enum Role {
    Window(Window),
    Popup(Popup),
    Subsurface(WlSurface, WlSubsurface),
}

#[derive(Debug)]
struct Node {
    role: Role,
    /// The surface it belongs to.
    parent: Option<u32>,
    viewport: Option<WpViewport>,
    /// The buffer of the next commit.
    pending: Option<u32>,
    /// It has had a buffer since its initial commit.
    mapped: bool,
}

impl Node {
    fn surface(&self) -> &WlSurface {
        match &self.role {
            Role::Window(window) => &window.surface,
            Role::Popup(popup) => &popup.surface,
            Role::Subsurface(surface, _) => surface,
        }
    }

    fn id(&self) -> u32 {
        self.surface().id().protocol_id()
    }

    fn xdg_surface(&self) -> Option<u32> {
        match &self.role {
            Role::Window(window) => Some(window.xdg_surface.id().protocol_id()),
            Role::Popup(popup) => Some(popup.xdg_surface.id().protocol_id()),
            Role::Subsurface(..) => None,
        }
    }
}

/// A client and what it has.
#[derive(Debug)]
struct Actor {
    client: Client,
    nodes: Vec<Node>,
    buffers: Vec<Buffer>,
    /// Buffers that were committed, and how long the event list was then.
    lent: Vec<(u32, usize)>,
}

impl Actor {
    fn new(server: &Server) -> Actor {
        let client = server.connect().unwrap();
        let mut actor = Actor { client, nodes: Vec::new(), buffers: Vec::new(), lent: Vec::new() };
        for (kind, size) in [(2, 3), (2, 1), (3, 0)] {
            actor.buffer(kind, size, u32::from(kind));
        }
        let window = actor.client.open_window("first").unwrap();
        actor.push(Role::Window(window), None, None);
        actor
    }

    /// Carries an operation out if it is legal now.
    fn act(&mut self, op: &Op) {
        match op {
            Op::Window(buffer) if self.nodes.len() < MOST => {
                let window = self.client.open_window("w").unwrap();
                self.push(Role::Window(window), None, Some(buffer));
            }
            Op::Popup(parent, buffer) => self.popup(parent, buffer),
            Op::Subsurface(parent, x, y, buffer) if self.nodes.len() < MOST => {
                let Some(at) = self.pick(parent) else { return };
                let parent = self.nodes[at].surface().clone();
                let (surface, role) = self.client.subsurface(&parent).unwrap();
                role.set_position(i32::from(*x), i32::from(*y));
                self.push(Role::Subsurface(surface, role), Some(parent.id().protocol_id()), Some(buffer));
                self.commit_node(at);
            }
            Op::Close(node) => {
                if let Some(at) = self.pick(node) {
                    self.close(self.nodes[at].id());
                }
            }
            Op::Buffer { kind, size, seed } if self.buffers.len() < MOST => self.buffer(*kind, *size, *seed),
            Op::DestroyBuffer(buffer) if !self.buffers.is_empty() => {
                let at = buffer.index(self.buffers.len());
                let id = self.buffers[at].id();
                // What a commit shows of a destroyed buffer is not defined.
                if self.nodes.iter().all(|node| node.pending != Some(id)) {
                    self.buffers.swap_remove(at).wl.destroy();
                    self.lent.retain(|(lent, _)| *lent != id);
                }
            }
            Op::Show(node, buffer) => {
                self.attach(node, buffer);
                self.commit(node);
            }
            Op::Attach(node, buffer) => self.attach(node, buffer),
            Op::Commit(node) => self.commit(node),
            Op::Damage(node) => {
                if let Some(at) = self.pick(node) {
                    self.nodes[at].surface().damage_buffer(4, 4, 9, 9);
                    self.commit(node);
                }
            }
            Op::Unmap(node) => self.unmap(node),
            Op::Ask(node) => {
                if let Some(at) = self.pick(node) {
                    let surface = self.nodes[at].surface().clone();
                    self.client.feedback(&surface).unwrap();
                    self.client.frame(&surface);
                    self.commit(node);
                }
            }
            other => self.adjust(other),
        }
    }

    /// Operations that change state of a surface which a later commit applies.
    fn adjust(&mut self, op: &Op) {
        match op {
            Op::Move(node, x, y) => {
                if let Some(Role::Subsurface(_, role)) = self.role(node) {
                    role.set_position(i32::from(*x), i32::from(*y));
                }
            }
            Op::Restack(node, above) => {
                let Some(at) = self.pick(node) else { return };
                let Some(parent) = self.nodes.iter().find(|n| Some(n.id()) == self.nodes[at].parent) else {
                    return;
                };
                if let Role::Subsurface(_, role) = &self.nodes[at].role {
                    if *above {
                        role.place_above(parent.surface())
                    } else {
                        role.place_below(parent.surface())
                    }
                }
                // smithay 0.7 restacks at once; the protocol's moment is the parent's commit.
                self.commit_up(parent.id());
            }
            Op::Sync(node, on) => {
                if let Some(Role::Subsurface(_, role)) = self.role(node) {
                    if *on { role.set_sync() } else { role.set_desync() }
                }
            }
            Op::Viewport(node, how) => {
                let Some(at) = self.pick(node) else { return };
                let surface = self.nodes[at].surface().clone();
                let viewport =
                    self.nodes[at].viewport.get_or_insert_with(|| self.client.viewport(&surface).unwrap());
                match how {
                    0 => viewport.set_source(-1.0, -1.0, -1.0, -1.0),
                    1 => viewport.set_source(4.0, 8.0, 20.0, 12.0),
                    2 => viewport.set_destination(-1, -1),
                    _ => viewport.set_destination(60, 40),
                }
            }
            Op::Turn(node, how) => {
                if let Some(at) = self.pick(node) {
                    let transform = Transform::try_from(u32::from(*how)).unwrap();
                    self.nodes[at].surface().set_buffer_transform(transform);
                }
            }
            Op::Sizing(node, how) => {
                if let Some(Role::Window(window)) = self.role(node) {
                    match how {
                        0 => window.toplevel.set_fullscreen(None),
                        1 => window.toplevel.unset_fullscreen(),
                        2 => window.toplevel.set_maximized(),
                        _ => window.toplevel.unset_maximized(),
                    }
                }
            }
            _ => {}
        }
    }

    fn pick(&self, index: &Index) -> Option<usize> {
        (!self.nodes.is_empty()).then(|| index.index(self.nodes.len()))
    }

    fn role(&self, index: &Index) -> Option<&Role> {
        self.pick(index).map(|at| &self.nodes[at].role)
    }

    /// Adds a surface and shows a buffer in it, without `buffer` the second.
    fn push(&mut self, role: Role, parent: Option<u32>, buffer: Option<&Index>) {
        let at = self.nodes.len();
        self.nodes.push(Node { role, parent, viewport: None, pending: None, mapped: false });
        match buffer {
            Some(buffer) => self.attach_node(at, buffer.index(self.buffers.len().max(1))),
            None => self.attach_node(at, 1),
        }
        self.commit_node(at);
    }

    fn popup(&mut self, parent: &Index, buffer: &Index) {
        let Some(at) = self.pick(parent).filter(|_| self.nodes.len() < MOST) else { return };
        let (parent, id) = match &self.nodes[at].role {
            Role::Window(window) if self.nodes[at].mapped => {
                (window.xdg_surface.clone(), self.nodes[at].id())
            }
            _ => return,
        };
        if self.nodes.iter().any(|n| n.parent == Some(id) && matches!(n.role, Role::Popup(_))) {
            return;
        }
        let positioner = self.client.positioner().unwrap();
        positioner.set_size(30, 30);
        positioner.set_anchor_rect(3, 3, 10, 10);
        let popup = self.client.popup(&parent, &positioner).unwrap();
        positioner.destroy();
        let object = popup.xdg_surface.id().protocol_id();
        self.configure(object, |_| popup.surface.commit());
        self.push(Role::Popup(popup), Some(id), Some(buffer));
    }

    /// Waits for the configure event that `request` causes.
    fn configure(&mut self, xdg_surface: u32, request: impl FnOnce(&mut Client)) {
        let before = self.client.seen.log.len();
        request(&mut self.client);
        let wanted = |e: &Event| matches!(e, Event::Configure(object, _) if *object == xdg_surface);
        self.client.wait("configure", |seen| seen.log[before..].iter().any(wanted)).unwrap();
    }

    fn unmap(&mut self, index: &Index) {
        let Some(at) = self.pick(index).filter(|at| self.nodes[*at].mapped) else { return };
        let (surface, id) = (self.nodes[at].surface().clone(), self.nodes[at].id());
        let xdg_surface = match &self.nodes[at].role {
            Role::Window(_) => self.nodes[at].xdg_surface(),
            Role::Popup(_) => return,
            Role::Subsurface(..) => None,
        };
        // A popup does not outlive its window on screen.
        let popup = self.nodes.iter().find(|n| n.parent == Some(id) && matches!(n.role, Role::Popup(_)));
        if let Some(popup) = popup.map(Node::id) {
            self.close(popup);
        }
        surface.attach(None, 0, 0);
        surface.commit();
        if let Some(node) = self.nodes.iter_mut().find(|n| n.id() == id) {
            (node.pending, node.mapped) = (None, false);
        }
        // A window starts again with an initial commit.
        if let Some(xdg_surface) = xdg_surface {
            self.configure(xdg_surface, |_| surface.commit());
        }
    }

    fn close(&mut self, id: u32) {
        let children: Vec<u32> = self.nodes.iter().filter(|n| n.parent == Some(id)).map(Node::id).collect();
        children.into_iter().for_each(|child| self.close(child));
        // smithay 0.7 never gives back a buffer that a synchronized subsurface still held back for its parent.
        self.commit_up(id);
        let Some(at) = self.nodes.iter().position(|n| n.id() == id) else { return };
        let node = self.nodes.remove(at);
        if let Some(viewport) = node.viewport {
            viewport.destroy();
        }
        match node.role {
            Role::Window(window) => window.close(),
            Role::Popup(popup) => popup.close(),
            Role::Subsurface(surface, role) => {
                role.destroy();
                surface.destroy();
            }
        }
    }

    fn buffer(&mut self, kind: u8, size: u8, seed: u32) {
        let size = [(40, 32), (64, 64), (32, 48), OUTPUT][usize::from(size)];
        let pattern = Pattern::Noise(seed);
        let buffer = match kind {
            0 => self.client.shm("XR24", size, pattern),
            1 => self.client.shm("AR24", size, pattern),
            2 => self.client.dmabuf("XR24", size, pattern),
            3 => self.client.dmabuf("AR24", size, pattern),
            4 => self.client.dmabuf("NV12", size, pattern),
            5 => self.client.dmabuf("XB24", size, pattern),
            _ => self.client.dmabuf_with("AR24", size, pattern, Flags::YInvert),
        };
        self.buffers.push(buffer.unwrap());
    }

    fn attach(&mut self, node: &Index, buffer: &Index) {
        if let Some(at) = self.pick(node) {
            self.attach_node(at, buffer.index(self.buffers.len().max(1)));
        }
    }

    fn attach_node(&mut self, at: usize, buffer: usize) {
        let Some(buffer) = self.buffers.get(buffer) else { return };
        self.client.attach(self.nodes[at].surface(), buffer);
        self.nodes[at].pending = Some(buffer.id());
    }

    fn commit(&mut self, node: &Index) {
        if let Some(at) = self.pick(node) {
            self.commit_node(at);
        }
    }

    /// Commits a surface and every one that it belongs to.
    fn commit_up(&mut self, surface: u32) {
        let mut next = Some(surface);
        while let Some(at) = next.and_then(|id| self.nodes.iter().position(|n| n.id() == id)) {
            self.commit_node(at);
            next = self.nodes[at].parent;
        }
    }

    fn commit_node(&mut self, at: usize) {
        self.nodes[at].surface().commit();
        if let Some(buffer) = self.nodes[at].pending.take() {
            self.nodes[at].mapped = true;
            self.lent.retain(|(id, _)| *id != buffer);
            self.lent.push((buffer, self.client.seen.log.len()));
        }
    }
}

/// Everything that must hold while the output is at rest.
fn check(server: &Server) -> Result<(), TestCaseError> {
    server.settle().unwrap();
    let stats = server.stats().unwrap();
    let planes = &stats.outputs[0].planes;
    let primary = planes.iter().find(|p| p.r#type == "Primary").unwrap();
    prop_assert!(primary.fb.is_some(), "the primary plane is always on");
    let surfaces: Vec<_> = stats.clients.iter().flat_map(|client| &client.surfaces).collect();
    for plane in planes {
        let on: Vec<_> = surfaces.iter().filter(|s| s.plane == Some(plane.id)).collect();
        prop_assert!(on.len() <= 1, "one surface on a plane: {on:?}");
        prop_assert_eq!(on.len() == 1, plane.content == "client", "{:?} and {:?}", plane, on);
        prop_assert!(plane.content != "none" || plane.fb.is_none(), "{plane:?}");
    }
    for surface in surfaces {
        prop_assert!(surface.frames_zero_copy <= surface.frames_presented, "{surface:?}");
        prop_assert_eq!(surface.plane.is_none(), surface.reason.is_some(), "{:?}", surface);
        prop_assert!(surface.plane.is_none() || surface.format.is_some(), "only dma-bufs: {surface:?}");
    }
    // Planes and composition together show what composition alone shows.
    let shown = server.picture().unwrap();
    copy_everything(server, true);
    let composited = server.picture().unwrap();
    copy_everything(server, false);
    let again = server.picture().unwrap();
    for y in 0..OUTPUT.1 {
        for x in 0..OUTPUT.0 {
            let (planes, copy) = (shown.at(x, y), composited.at(x, y));
            let near = planes.iter().zip(copy).all(|(p, c)| p.abs_diff(c) <= stacked_tolerance());
            prop_assert!(near, "planes {planes:?} and composition {copy:?} at {x},{y}");
            prop_assert_eq!(planes, again.at(x, y), "back on planes at {},{}", x, y);
        }
    }
    Ok(())
}

/// Planes are blended by Pixman here, whatever composites; each of some layers may be rounded the other way.
fn stacked_tolerance() -> u8 {
    2 * blend_tolerance()
}

fn copy_everything(server: &Server, on: bool) {
    server
        .ask(move |state| {
            state.runtime.copy_on_purpose = on;
            state.queue_redraw_all();
        })
        .unwrap();
    server.settle().unwrap();
}

/// Closes everything a client has; each buffer that it lent must come back.
fn finish(server: &Server, mut actor: Actor) -> Result<(), TestCaseError> {
    while let Some(node) = actor.nodes.last() {
        let root = node.id();
        actor.close(root);
    }
    actor.client.roundtrip().unwrap();
    server.settle().unwrap();
    let lent = actor.lent.clone();
    let back = |seen: &crate::headless_support::client::Seen| {
        lent.iter().all(|(buffer, since)| seen.log[*since..].contains(&Event::Release(*buffer)))
    };
    let all = actor.client.wait_within(Duration::from_millis(500), back).unwrap();
    prop_assert!(all, "lent {:?}, released {:?}", lent, actor.client.seen.log);
    Ok(())
}

/// Files of this process, without the memory of the embedded device's own buffers.
fn open_files() -> usize {
    let names =
        std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|entry| entry.ok()?.path().read_link().ok());
    names.filter(|name| !name.to_string_lossy().starts_with("/memfd:prime")).count()
}

fn case(ops: &[(bool, Op)]) -> Result<(), TestCaseError> {
    let server = Server::start(OUTPUT).unwrap();
    server.settle().unwrap();
    let files = open_files();
    let mut actors = [Actor::new(&server), Actor::new(&server)];
    for (which, op) in ops {
        let actor = &mut actors[usize::from(*which)];
        match op {
            Op::Leave => *actor = Actor::new(&server),
            Op::Settle => check(&server)?,
            op => actor.act(op),
        }
        for actor in &mut actors {
            let answer = actor.client.roundtrip();
            prop_assert!(answer.is_ok(), "after {op:?}: {answer:?}");
        }
        let resources = server.stats().unwrap().resources;
        let alive: usize = actors.iter().map(|a| a.buffers.len() + a.nodes.len()).sum();
        prop_assert!(resources.framebuffers <= 2 * alive + 6, "{} buffers, {:?}", alive, resources);
    }
    check(&server)?;
    for actor in actors {
        finish(&server, actor)?;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        server.settle().unwrap();
        let stats = server.stats().unwrap();
        let left = (stats.resources.framebuffers, stats.resources.mapped, open_files());
        // What composition draws into stays, and is all that stays.
        let targets = stats.resources.gem_handles;
        if left == (0, 0, files) && stats.clients.is_empty() && targets <= TARGETS {
            return Ok(());
        }
        prop_assert!(
            Instant::now() < deadline,
            "framebuffers, views, files left: {left:?}, at first {files}, with {targets} targets"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn random_requests_leave_nothing_wrong_and_nothing_behind() {
    let gles = renderer() == Renderer::Gles;
    let cases = if gles { 24 } else { 64 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 60, ..Config::default() };
    let ops = prop::collection::vec((any::<bool>(), op()), 8..40);
    TestRunner::new(config).run(&ops, |ops| case(&ops)).unwrap();
    if !gles {
        run_again_with_gles();
    }
}
