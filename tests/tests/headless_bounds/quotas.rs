//! What one client may take from the others: time, files, memory, objects. Each attack runs beside a neighbour that
//! draws at the refresh rate, and ends where its quota says.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use primeway_tests::client::raw::{Arg, DISPLAY, End, FILES_AT_ONCE, Raw, copies, message, send_some};
use primeway_tests::picture::Pattern;
use wayland_client::protocol::wl_surface::WlSurface;

use crate::headless_support::neighbour::Neighbour;
use crate::headless_support::{Server, memory};

use super::{OUTPUT, alone, assert_files_return, files};

/// wl_display's codes.
const INVALID_METHOD: u32 = 1;
const NO_MEMORY: u32 = 2;
const IMPLEMENTATION: u32 = 3;

/// A thread that sends the same bytes without pause until it is told to stop or the connection ends, and reads what
/// comes; says how many bytes went out.
struct Flood {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Flood {
    fn of(raw: Raw, bytes: Vec<u8>) -> Flood {
        let stop = Arc::new(AtomicBool::new(false));
        let reader = raw.socket().try_clone().unwrap();
        let (stopped, stopped_too) = (stop.clone(), stop.clone());
        let write = std::thread::spawn(move || {
            let mut sent = 0;
            let mut at = 0;
            while !stopped.load(Ordering::Relaxed) {
                match send_some(raw.socket(), &bytes[at..], &[]) {
                    Ok(count) => {
                        sent += count as u64;
                        at = (at + count) % bytes.len();
                    }
                    Err(rustix::io::Errno::AGAIN) => std::thread::yield_now(),
                    Err(_) => break,
                }
            }
            sent
        });
        let read = std::thread::spawn(move || {
            let mut buffer = vec![0; 65536];
            reader.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            while !stopped_too.load(Ordering::Relaxed) {
                match std::io::Read::read(&mut &reader, &mut buffer) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
            0
        });
        Flood { stop, threads: vec![write, read] }
    }

    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    }
}

/// A client with a mapped window of its own; its surface.
fn raw_window(server: &Server) -> (Raw, u32) {
    let mut raw = server.connect_raw().unwrap();
    let compositor = raw.bind("wl_compositor", 4).unwrap();
    let surface = raw.id();
    raw.request(compositor, 0, &[Arg::U(surface)]).unwrap();
    raw.roundtrip().unwrap().unwrap();
    (raw, surface)
}

#[test]
fn who_commits_without_pause_does_not_keep_others_from_drawing() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let (raw, surface) = raw_window(&server);
            let damage = message(surface, 2, &[Arg::I(0), Arg::I(0), Arg::I(9), Arg::I(9)]);
            Flood::of(raw, [damage, message(surface, 6, &[])].concat().repeat(400))
        })
        .collect();
    neighbour.draws("two floods of commits");
    for flood in floods {
        let sent = flood.end();
        assert!(sent > 100_000, "the flood was none: {sent} bytes");
    }
}

#[test]
fn who_asks_for_answers_without_pause_does_not_keep_others_from_drawing() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    // The same callback again and again: it is free again with each answer.
    let raw = server.connect_raw().unwrap();
    let flood = Flood::of(raw, message(DISPLAY, 0, &[Arg::U(4)]).repeat(300));
    neighbour.draws("a flood of syncs");
    let sent = flood.end();
    assert!(sent > 100_000, "the flood was none: {sent} bytes");
}

#[test]
fn who_binds_without_pause_does_not_keep_others_from_drawing() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let floods: Vec<_> = (0..4)
        .map(|_| {
            let mut raw = server.connect_raw().unwrap();
            // wl_region, made and destroyed.
            let compositor = raw.bind("wl_compositor", 4).unwrap();
            raw.roundtrip().unwrap().unwrap();
            let region = raw.id();
            let make = message(compositor, 1, &[Arg::U(region)]);
            let add = message(region, 1, &[Arg::I(0), Arg::I(0), Arg::I(9), Arg::I(9)]).repeat(20);
            Flood::of(raw, [make, add, message(region, 0, &[])].concat().repeat(50))
        })
        .collect();
    neighbour.draws("four floods of regions");
    floods.into_iter().for_each(|flood| {
        flood.end();
    });
}

#[test]
fn files_that_no_request_takes_end_their_sender() {
    let _alone = alone();
    let server = Server::start_with(OUTPUT, &["files=100"]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let null = File::open("/dev/null").unwrap();
    let before = files(&server);
    let mut raw = server.connect_raw().unwrap();
    for _ in 0..100 {
        let callback = raw.id();
        let sync = message(DISPLAY, 0, &[Arg::U(callback)]);
        raw.send(&sync, &copies(&null, FILES_AT_ONCE)).unwrap();
    }
    let end = raw.end().unwrap();
    assert!(matches!(end, End::Error { object: DISPLAY, code: IMPLEMENTATION, .. }), "{end:?}");
    drop(raw);
    assert_files_return(&server, before);
    neighbour.draws("after stray files");
}

#[test]
fn files_of_an_unfinished_message_end_their_sender() {
    let _alone = alone();
    let server = Server::start_with(OUTPUT, &["files=100"]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let null = File::open("/dev/null").unwrap();
    let before = files(&server);
    let mut raw = server.connect_raw().unwrap();
    // A message of 4000 bytes, a byte at a time.
    let head = [DISPLAY.to_ne_bytes(), (4000_u32 << 16).to_ne_bytes()].concat();
    raw.send(&head, &[]).unwrap();
    for _ in 0..300 {
        raw.send(&[0], &copies(&null, FILES_AT_ONCE)).unwrap();
    }
    let end = raw.end().unwrap();
    assert!(matches!(end, End::Error { object: DISPLAY, code: IMPLEMENTATION, .. }), "{end:?}");
    drop(raw);
    assert_files_return(&server, before);
    neighbour.draws("after an unfinished message");
}

#[test]
fn files_that_requests_take_are_not_counted_against_their_sender() {
    let _alone = alone();
    let server = Server::start_with(OUTPUT, &["files=30"]).unwrap();
    let mut client = server.connect().unwrap();
    for n in 0..100 {
        let buffer = client.shm("XR24", (16, 16), Pattern::Noise(n)).unwrap();
        buffer.wl.destroy();
        let buffer = client.dmabuf("NV12", (16, 16), Pattern::Noise(n)).unwrap();
        buffer.wl.destroy();
        client.roundtrip().unwrap();
    }
}

#[test]
fn a_message_that_cannot_be_one_is_an_error() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    for len in [0_u32, 4, 7, 10, 4100, 65532] {
        let mut raw = server.connect_raw().unwrap();
        let head = [DISPLAY.to_ne_bytes(), (len << 16).to_ne_bytes()].concat();
        raw.send(&head, &[]).unwrap();
        let end = raw.end().unwrap();
        assert!(matches!(end, End::Error { object: DISPLAY, code: INVALID_METHOD, .. }), "{len}: {end:?}");
    }
    server.connect().unwrap().roundtrip().unwrap();
}

#[test]
fn who_does_not_read_is_disconnected_at_its_limit_and_nobody_else_is() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let raw = server.connect_raw().unwrap();
    let sync = message(DISPLAY, 0, &[Arg::U(4)]).repeat(300);
    let (began, mut sent) = (Instant::now(), 0);
    let ended = loop {
        match send_some(raw.socket(), &sync[sent % sync.len()..], &[]) {
            Ok(count) => sent += count,
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(err) => break err,
        }
        assert!(began.elapsed() < Duration::from_secs(20), "still connected after {sent} bytes");
    };
    assert!(matches!(ended, rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET), "{ended}");
    // Each sync of 12 bytes is answered with 24: a MiB here, besides what the kernel keeps.
    assert!(sent > 512 * 1024, "disconnected after {sent} bytes");
    assert!(sent < 2 * 1024 * 1024, "disconnected after {sent} bytes");
    neighbour.draws("after who did not read");
}

#[test]
fn who_pauses_reading_hears_everything_in_order() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut raw = server.connect_raw().unwrap();
    // 480 KiB of answers, more than the sockets hold.
    let mut callbacks = Vec::new();
    for _ in 0..20_000 {
        let id = raw.id();
        callbacks.push(id);
        raw.request(DISPLAY, 0, &[Arg::U(id)]).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    let mut done = Vec::new();
    while done.len() < callbacks.len() {
        let events = raw.read(Duration::from_secs(5)).unwrap().unwrap();
        assert!(!events.is_empty(), "only {} of {} answers", done.len(), callbacks.len());
        done.extend(events.iter().filter(|e| e.object != DISPLAY && e.opcode == 0).map(|e| e.object));
    }
    assert_eq!(done, callbacks);
}

/// A client beyond the quota `limit` gets wl_display.no_memory, one below it lives.
fn no_memory(limit: &str, within: usize, request: impl Fn(&mut Raw, usize)) {
    let server = Server::start_with(OUTPUT, &[limit]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let mut raw = server.connect_raw().unwrap();
    for n in 0..within {
        request(&mut raw, n);
    }
    raw.roundtrip().unwrap().unwrap_or_else(|end| panic!("within {limit}: {end:?}"));
    for n in within..2 * within + 8000 {
        request(&mut raw, n);
    }
    let end = raw.end().unwrap();
    assert!(matches!(end, End::Error { object: DISPLAY, code: NO_MEMORY, .. }), "{limit}: {end:?}");
    neighbour.draws(limit);
}

/// The first object after the registry's.
const FIRST: u32 = 3;

/// Makes an object with a request of wl_compositor.
fn make(raw: &mut Raw, n: usize, opcode: u16) {
    let compositor = bound(raw, n, "wl_compositor");
    let id = raw.id();
    raw.request(compositor, opcode, &[Arg::U(id)]).unwrap();
}

/// Binds on first use.
fn bound(raw: &mut Raw, n: usize, interface: &str) -> u32 {
    if n == 0 { raw.bind(interface, 4).unwrap() } else { FIRST }
}

#[test]
fn surfaces_are_limited() {
    let _alone = alone();
    no_memory("surfaces=50", 50, |raw, n| make(raw, n, 0));
}

#[test]
fn objects_of_any_kind_are_limited() {
    let _alone = alone();
    no_memory("objects=5000", 4000, |raw, n| make(raw, n, 1));
}

/// An object whose surface is gone is inert, and an object all the same: at the default limits who makes 100,000 of them is
/// sent away, and a neighbour's frames go on meanwhile.
#[test]
fn objects_without_their_surface_are_limited() {
    const DEFAULT: usize = 65_536;
    let _alone = alone();
    for manager in [
        "wp_alpha_modifier_v1",
        "wp_content_type_manager_v1",
        "wp_tearing_control_manager_v1",
        "wp_color_representation_manager_v1",
    ] {
        let server = Server::start(OUTPUT).unwrap();
        let mut neighbour = Neighbour::new(&server, OUTPUT);
        let mut raw = server.connect_raw().unwrap();
        let compositor = raw.bind("wl_compositor", 4).unwrap();
        let factory = raw.bind(manager, 1).unwrap();
        let mut end = None;
        for made in 1..=100_000 {
            let (surface, object) = (raw.id(), raw.id());
            raw.request(compositor, 0, &[Arg::U(surface)]).unwrap();
            raw.request(factory, 1, &[Arg::U(object), Arg::U(surface)]).unwrap();
            raw.request(surface, 0, &[]).unwrap();
            if made % 2000 == 0 {
                let began = Instant::now();
                neighbour.frame(made as u32 / 2000);
                assert!(began.elapsed() < Duration::from_secs(1), "{manager}: {:?}", began.elapsed());
                if let Err(how) = raw.roundtrip().unwrap() {
                    end = Some((made, how));
                    break;
                }
            }
        }
        let Some((made, end)) = end else { panic!("{manager}: 100,000 objects are allowed") };
        assert!(matches!(end, End::Error { object: DISPLAY, code: NO_MEMORY, .. }), "{manager}: {end:?}");
        assert!((DEFAULT - 4000..DEFAULT + 8000).contains(&made), "{manager}: {made} were allowed");
        neighbour.draws(manager);
    }
}

#[test]
fn pools_are_limited() {
    let _alone = alone();
    let file = memory(4096);
    no_memory("pools=50", 50, move |raw, n| {
        let shm = bound(raw, n, "wl_shm");
        let id = raw.id();
        raw.send(&message(shm, 0, &[Arg::U(id), Arg::I(4096)]), &[file.as_fd()]).unwrap();
    });
}

#[test]
fn rectangles_of_a_region_are_limited() {
    let _alone = alone();
    no_memory("objects=5000", 4000, |raw, n| {
        let compositor = bound(raw, n, "wl_compositor");
        if n == 0 {
            let id = raw.id();
            assert_eq!(id, FIRST + 1);
            raw.request(compositor, 1, &[Arg::U(id)]).unwrap();
        }
        raw.request(FIRST + 1, 1, &[Arg::I(n as i32), Arg::I(0), Arg::I(1), Arg::I(1)]).unwrap();
    });
}

/// zwp_linux_buffer_params_v1.add of one plane of 16x16.
fn add(params: u32) -> Vec<u8> {
    message(params, 1, &[Arg::U(0), Arg::U(0), Arg::U(64), Arg::U(0), Arg::U(0)])
}

/// zwp_linux_buffer_params_v1.create of 16x16 XRGB8888.
fn create(params: u32) -> Vec<u8> {
    message(params, 2, &[Arg::I(16), Arg::I(16), Arg::U(u32::from_le_bytes(*b"XR24")), Arg::U(0)])
}

/// A client with linux-dmabuf, and the object.
fn raw_dmabuf(server: &Server) -> (Raw, u32) {
    let mut raw = server.connect_raw().unwrap();
    let dmabuf = raw.bind("zwp_linux_dmabuf_v1", 3).unwrap();
    raw.roundtrip().unwrap().unwrap();
    (raw, dmabuf)
}

/// Asks for `count` buffers, each of `file()`, and counts what was created and what failed.
fn created(raw: &mut Raw, dmabuf: u32, count: usize, file: impl Fn() -> OwnedFd) -> (usize, usize) {
    let mut params = Vec::new();
    for _ in 0..count {
        let id = raw.id();
        params.push(id);
        let file = file();
        raw.request(dmabuf, 1, &[Arg::U(id)]).unwrap();
        raw.send(&add(id), &[file.as_fd()]).unwrap();
        raw.send(&create(id), &[]).unwrap();
    }
    let events = raw.roundtrip().unwrap().unwrap();
    let of = |opcode| events.iter().filter(|e| params.contains(&e.object) && e.opcode == opcode).count();
    (of(0), of(1))
}

#[test]
fn buffers_beyond_the_quota_fail_and_come_again_when_others_go() {
    let _alone = alone();
    let server = Server::start_with(OUTPUT, &["buffers=10"]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let (mut raw, dmabuf) = raw_dmabuf(&server);
    assert_eq!(created(&mut raw, dmabuf, 15, || memory(4096)), (10, 5));
    // The first wl_buffer that the server made.
    raw.request(0xff00_0000, 0, &[]).unwrap();
    assert_eq!(created(&mut raw, dmabuf, 5, || memory(4096)), (1, 4));
    neighbour.draws("too many buffers");
}

#[test]
fn memory_beyond_the_quota_fails_but_the_same_memory_counts_once() {
    let _alone = alone();
    let server = Server::start_with(OUTPUT, &["bytes=1M"]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let (mut raw, dmabuf) = raw_dmabuf(&server);
    let one = memory(600 * 1024);
    assert_eq!(created(&mut raw, dmabuf, 20, || one.try_clone().unwrap()), (20, 0));
    assert_eq!(created(&mut raw, dmabuf, 3, || memory(600 * 1024)), (0, 3));
    assert_eq!(created(&mut raw, dmabuf, 1, || memory(300 * 1024)), (1, 0));
    neighbour.draws("too much memory");
}

#[test]
fn params_beyond_the_quota_make_no_buffers() {
    let _alone = alone();
    let server = Server::start_with(OUTPUT, &["params=10", "pending=5"]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let file = memory(4096);
    let before = files(&server);
    let (mut used, dmabuf) = raw_dmabuf(&server);
    // Those that are used up count until they are destroyed.
    assert_eq!(created(&mut used, dmabuf, 12, || memory(4096)), (10, 2));
    let (mut raw, dmabuf) = raw_dmabuf(&server);
    let params: Vec<u32> = (0..8).map(|_| raw.id()).collect();
    for id in &params {
        raw.request(dmabuf, 1, &[Arg::U(*id)]).unwrap();
        raw.send(&add(*id), &[file.as_fd()]).unwrap();
    }
    for id in &params {
        raw.send(&create(*id), &[]).unwrap();
    }
    let events = raw.roundtrip().unwrap().unwrap();
    let failed: Vec<u32> =
        events.iter().filter(|e| params.contains(&e.object) && e.opcode == 1).map(|e| e.object).collect();
    assert_eq!(failed, params[5..]);
    drop((used, raw));
    neighbour.draws("too many params");
    assert_files_return(&server, before);
}

#[test]
fn the_reserve_of_files_is_for_those_who_hold_few() {
    let _alone = alone();
    // The test's own files are the compositor's too.
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let limit = format!("open-files={}", (open + 700) * 8 / 7);
    let server =
        Server::start_with(OUTPUT, &[&limit, "files=100000", "pending=100000", "params=100000"]).unwrap();
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    let null = File::open("/dev/null").unwrap();
    let before = files(&server);
    // Each sends what it may, none is over a quota of its own.
    let mut hoarders: Vec<Raw> = (0..5).map(|_| server.connect_raw().unwrap()).collect();
    let mut ended = Vec::new();
    for _ in 0..10 {
        hoarders.retain_mut(|raw| {
            raw.send(&message(DISPLAY, 0, &[Arg::U(FIRST)]), &copies(&null, FILES_AT_ONCE)).unwrap();
            let end = raw.roundtrip().unwrap().err();
            let stays = end.is_none();
            ended.extend(end);
            stays
        });
    }
    assert!(!ended.is_empty(), "nobody was disconnected");
    for end in &ended {
        assert!(matches!(end, End::Error { object: DISPLAY, code: NO_MEMORY, .. }), "{end:?}");
    }
    neighbour.draws("hoarders of files");
    let mut newcomer = server.connect().unwrap();
    newcomer.shm("XR24", (16, 16), Pattern::Noise(1)).unwrap();
    newcomer.roundtrip().unwrap();
    drop((hoarders, newcomer));
    assert_files_return(&server, before);
}

#[test]
fn damage_without_end_is_damage_everywhere() {
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let mut client = server.connect().unwrap();
    let buffer = client.shm("XR24", (64, 48), Pattern::Noise(1)).unwrap();
    let window = client.show_window("damaged", &buffer).unwrap();
    let surface: &WlSurface = &window.surface;
    let other = client.shm("XR24", (64, 48), Pattern::Noise(2)).unwrap();
    surface.attach(Some(&other.wl), 0, 0);
    for _ in 0..1000 {
        surface.damage_buffer(0, 0, 1, 1);
    }
    surface.commit();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    let (x, y) = server.window("damaged").unwrap().position;
    let screen = server.picture().unwrap();
    for at in [(0, 0), (63, 0), (0, 47), (63, 47), (30, 20)] {
        let pixel = other.picture.rgba(&other.memory.format, at.0, at.1);
        assert_eq!(screen.at(x as u32 + at.0, y as u32 + at.1), [pixel.b, pixel.g, pixel.r], "{at:?}");
    }
}

/// The compositor counts the files that requests take. A new protocol with such a request must be counted too, in its
/// handler, or in `clients` if the library handles it.
#[test]
fn every_request_that_takes_a_file_is_known() {
    use smithay::reexports::wayland_protocols::wp::alpha_modifier::v1::server::wp_alpha_modifier_v1::WpAlphaModifierV1;
    use smithay::reexports::wayland_protocols::wp::color_representation::v1::server::wp_color_representation_manager_v1::WpColorRepresentationManagerV1;
    use smithay::reexports::wayland_protocols::wp::content_type::v1::server::wp_content_type_manager_v1::WpContentTypeManagerV1;
    use smithay::reexports::wayland_protocols::wp::linux_dmabuf::zv1::server::zwp_linux_dmabuf_v1::ZwpLinuxDmabufV1;
    use smithay::reexports::wayland_protocols::wp::tearing_control::v1::server::wp_tearing_control_manager_v1::WpTearingControlManagerV1;
    use smithay::reexports::wayland_protocols::wp::presentation_time::server::wp_presentation::WpPresentation;
    use smithay::reexports::wayland_protocols::wp::viewporter::server::wp_viewporter::WpViewporter;
    use smithay::reexports::wayland_protocols::xdg::shell::server::xdg_wm_base::XdgWmBase;
    use smithay::reexports::wayland_protocols::xdg::xdg_output::zv1::server::zxdg_output_manager_v1::ZxdgOutputManagerV1;
    use smithay::reexports::wayland_server::Resource as _;
    use smithay::reexports::wayland_server::backend::protocol::{ArgumentType, Interface};
    use smithay::reexports::wayland_server::protocol as wl;
    let globals: Vec<&'static Interface> = vec![
        wl::wl_compositor::WlCompositor::interface(),
        wl::wl_subcompositor::WlSubcompositor::interface(),
        wl::wl_shm::WlShm::interface(),
        wl::wl_seat::WlSeat::interface(),
        wl::wl_output::WlOutput::interface(),
        wl::wl_data_device_manager::WlDataDeviceManager::interface(),
        ZwpLinuxDmabufV1::interface(),
        WpPresentation::interface(),
        WpViewporter::interface(),
        XdgWmBase::interface(),
        ZxdgOutputManagerV1::interface(),
        WpAlphaModifierV1::interface(),
        WpColorRepresentationManagerV1::interface(),
        WpContentTypeManagerV1::interface(),
        WpTearingControlManagerV1::interface(),
    ];
    let _alone = alone();
    let server = Server::start(OUTPUT).unwrap();
    let raw = server.connect_raw().unwrap();
    for name in raw.globals.keys() {
        assert!(globals.iter().any(|interface| interface.name == name), "{name}: does it take files?");
    }
    let mut all = globals;
    let mut at = 0;
    let mut taking = Vec::new();
    while at < all.len() {
        let interface = all[at];
        for message in interface.requests {
            if message.signature.iter().any(|argument| matches!(argument, ArgumentType::Fd)) {
                taking.push(format!("{}.{}", interface.name, message.name));
            }
        }
        for child in interface.requests.iter().chain(interface.events).filter_map(|m| m.child_interface) {
            if !all.iter().any(|known| known.name == child.name) {
                all.push(child);
            }
        }
        at += 1;
    }
    taking.sort_unstable();
    assert_eq!(taking, ["wl_data_offer.receive", "wl_shm.create_pool", "zwp_linux_buffer_params_v1.add"]);
}
