//! Imports that take long: their clients wait for them, nobody else does, and each is answered once.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use drm_prime::device::faults::Call;
use primeway::backend::headless::Headless;
use primeway_tests::picture::Pattern;
use rustix::io::Errno;
use wayland_client::protocol::wl_buffer::WlBuffer;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Flags, ZwpLinuxBufferParamsV1,
};

use crate::headless_support::client::{Client, Event};
use crate::headless_support::neighbour::Neighbour;
use crate::headless_support::{self, FaultyDevice, PATIENCE, Server};

use super::{OUTPUT, present};

const SIZE: (u32, u32) = (96, 64);
/// What nobody may notice: an import takes at least so long in these cases.
const LONG: Duration = Duration::from_millis(700);
/// Frames that somebody who is not concerned draws in that time, of 42.
const FRAMES: u32 = 25;

/// A compositor whose imports can be held up.
fn start(limits: &[&str]) -> (Server, FaultyDevice) {
    Server::start_faulty(OUTPUT, limits, Headless::driver(), |_| {}).unwrap()
}

fn memory() -> OwnedFd {
    headless_support::memory(u64::from((STRIDE + 2) * SIZE.1))
}

/// Asks for a buffer of [`SIZE`] and does not wait for it.
fn create(client: &Client, file: impl AsFd, stride: u32) -> ZwpLinuxBufferParamsV1 {
    let params = client.params().unwrap();
    params.add(file.as_fd(), 0, 0, stride, 0, 0);
    client.create(&params, (SIZE.0 as i32, SIZE.1 as i32), u32::from_le_bytes(*b"XR24"), Flags::empty());
    params
}

const STRIDE: u32 = SIZE.0 * 4;

fn created(client: &Client) -> Vec<WlBuffer> {
    let buffer = |event: &Event| match event {
        Event::Created(buffer) => Some(buffer.clone()),
        _ => None,
    };
    client.seen.log.iter().filter_map(buffer).collect()
}

fn failed(client: &Client) -> usize {
    client.seen.log.iter().filter(|event| **event == Event::Failed).count()
}

/// Waits until a thread is in an import; the client's requests have to be under way.
fn until_held(client: &mut Client, device: &FaultyDevice) {
    let deadline = Instant::now() + PATIENCE;
    while device.waiting(Call::FdToHandle) == 0 {
        assert!(Instant::now() < deadline, "nothing is imported");
        client.wait_within(Duration::from_millis(1), |_| false).unwrap();
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_import_that_takes_long_costs_a_neighbour_no_frame() {
    let (server, device) = start(&[]);
    let mut neighbour = Neighbour::new(&server, OUTPUT);
    assert!(neighbour.frame(0), "ZERO_COPY");
    assert!(!server.ask(|state| state.dmabuf.worker.is_running()).unwrap(), "nobody needed a thread yet");
    device.hold(Call::FdToHandle);
    let mut slow = server.connect().unwrap();
    create(&slow, memory(), STRIDE);
    until_held(&mut slow, &device);
    assert!(server.ask(|state| state.dmabuf.worker.is_running()).unwrap());
    let (began, mut frames) = (Instant::now(), 1);
    while began.elapsed() < LONG {
        assert!(neighbour.frame(frames), "ZERO_COPY");
        frames += 1;
    }
    assert!(frames >= FRAMES, "{frames} frames in {LONG:?}");
    // Nobody waits for the table of handles either.
    assert!(!server.ask(|state| state.backend.buffers().ledger()).unwrap().handles.is_empty());
    assert_eq!((created(&slow).len(), failed(&slow), device.waiting(Call::FdToHandle)), (0, 0, 1));
    device.release(Call::FdToHandle);
    slow.wait("created", |seen| seen.log.iter().any(|e| matches!(e, Event::Created(_)))).unwrap();
    // It is as good as any.
    let window = slow.open_window("slow").unwrap();
    window.surface.attach(Some(&created(&slow)[0]), 0, 0);
    window.surface.commit();
    slow.roundtrip().unwrap();
    server.settle().unwrap();
    assert!(server.window("slow").unwrap().plane.is_some());
    assert_eq!((created(&slow).len(), failed(&slow)), (1, 0), "one answer");
    // The thread goes when it has nothing to do, and comes again.
    eventually("it ends", || !server.ask(|state| state.dmabuf.worker.is_running()).unwrap());
    create(&slow, memory(), STRIDE);
    slow.roundtrip().unwrap();
    assert_eq!((created(&slow).len(), failed(&slow)), (2, 0));
}

#[test]
fn buffers_come_and_go_while_the_device_is_busy() {
    let (server, device) = start(&[]);
    let mut client = server.connect().unwrap();
    let mut first = client.dmabuf("XR24", OUTPUT, Pattern::Noise(1)).unwrap();
    let window = client.open_window("busy").unwrap();
    assert!(present(&mut client, &window.surface, &first));
    device.hold(Call::FdToHandle);
    let mut slow = server.connect().unwrap();
    create(&slow, memory(), STRIDE);
    until_held(&mut slow, &device);
    // At once, and composited: it is imported when the device is free.
    let second = client.dmabuf("XR24", OUTPUT, Pattern::Noise(2)).unwrap();
    assert!(!present(&mut client, &window.surface, &second));
    let report = server.window("busy").unwrap();
    let busy = "not imported yet, the device is busy with another import";
    assert_eq!(report.reason.as_deref(), Some(busy));
    assert_eq!(report.ways, ["import: the device is busy with another import"]);
    // What is destroyed is closed when the device is free.
    let closes = device.uses(Call::GemClose);
    first.wl.destroy();
    first = client.shm("XR24", SIZE, Pattern::Noise(3)).unwrap();
    let small = client.show_window("small", &first).unwrap();
    server.settle().unwrap();
    assert_eq!(device.uses(Call::GemClose), closes);
    small.close();
    assert!(!present(&mut client, &window.surface, &second));
    device.release(Call::FdToHandle);
    eventually("it is closed", || device.uses(Call::GemClose) > closes);
    eventually("it is scanned out", || present(&mut client, &window.surface, &second));
    let report = server.window("busy").unwrap();
    assert_eq!((report.reason, report.ways), (None, Vec::new()));
}

#[test]
fn a_buffer_that_the_table_knows_is_created_at_once() {
    let (server, device) = start(&[]);
    let mut client = server.connect().unwrap();
    let file = memory();
    create(&client, &file, STRIDE);
    client.wait("created", |seen| seen.log.iter().any(|e| matches!(e, Event::Created(_)))).unwrap();
    device.hold(Call::FdToHandle);
    let slow = create(&client, memory(), STRIDE);
    until_held(&mut client, &device);
    // Its answer overtakes the one before it.
    let known = create(&client, &file, STRIDE);
    client
        .wait("created", |seen| seen.log.iter().filter(|e| matches!(e, Event::Created(_))).count() == 2)
        .unwrap();
    assert_eq!(device.waiting(Call::FdToHandle), 1);
    slow.destroy();
    known.destroy();
    device.release(Call::FdToHandle);
    client.roundtrip().unwrap();
    assert_eq!((created(&client).len(), failed(&client)), (2, 0));
}

#[test]
fn a_roundtrip_waits_for_the_answer_and_frames_do_not() {
    let (server, device) = start(&[]);
    let mut client = server.connect().unwrap();
    let own = client.shm("XR24", SIZE, Pattern::Noise(1)).unwrap();
    let window = client.open_window("own").unwrap();
    device.hold(Call::FdToHandle);
    create(&client, memory(), STRIDE);
    until_held(&mut client, &device);
    // It goes on drawing.
    for _ in 0..5 {
        present(&mut client, &window.surface, &own);
    }
    let asked = std::thread::spawn(move || {
        let answered = client.roundtrip();
        (client, answered)
    });
    // A compositor with a client that it holds has nothing to do.
    std::thread::sleep(Duration::from_millis(50));
    let before = busy(&server);
    std::thread::sleep(Duration::from_millis(200));
    assert!(!asked.is_finished(), "the roundtrip is over before the buffer is there");
    let spent = busy(&server) - before;
    assert!(spent < Duration::from_millis(40), "{spent:?} of 200 ms");
    let mut other = server.connect().unwrap();
    other.roundtrip().unwrap();
    device.release(Call::FdToHandle);
    let (mut client, answered) = asked.join().unwrap();
    answered.unwrap();
    assert_eq!((created(&client).len(), failed(&client)), (1, 0), "it came before the roundtrip's end");
    client.roundtrip().unwrap();
    // The same in one go, as most clients send it.
    create(&client, memory(), STRIDE);
    client.roundtrip().unwrap();
    assert_eq!(created(&client).len(), 2);
    // And for a params object that is gone: there is nothing to wait for then.
    device.hold(Call::FdToHandle);
    let params = create(&client, memory(), STRIDE);
    until_held(&mut client, &device);
    params.destroy();
    let held = std::thread::spawn(move || {
        let answered = client.roundtrip();
        (client, answered)
    });
    std::thread::sleep(Duration::from_millis(50));
    device.release(Call::FdToHandle);
    let (mut client, answered) = held.join().unwrap();
    answered.unwrap();
    assert_eq!((created(&client).len(), failed(&client)), (2, 0));
    // One that is gone at once, perhaps before it is imported.
    create(&client, memory(), STRIDE).destroy();
    client.roundtrip().unwrap();
    assert_eq!((created(&client).len(), failed(&client)), (2, 0));
}

/// What the compositor's thread has computed so far.
fn busy(server: &Server) -> Duration {
    let time = server.ask(|_| rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime)).unwrap();
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What is held: handles, files of the process.
fn held(server: &Server) -> (usize, usize) {
    let resources = server.stats().unwrap().resources;
    (resources.gem_handles, resources.fds)
}

#[test]
fn nothing_is_left_of_a_buffer_that_nobody_wants_any_more() {
    let (server, device) = start(&["buffers=1"]);
    let mut client = server.connect().unwrap();
    // The thread and its channel are there from now on.
    create(&client, memory(), STRIDE);
    client.roundtrip().unwrap();
    created(&client)[0].destroy();
    client.roundtrip().unwrap();
    server.settle().unwrap();
    let (handles, closes) = (held(&server).0, device.uses(Call::GemClose));
    for turn in 0..3 {
        device.hold(Call::FdToHandle);
        let params = create(&client, memory(), STRIDE);
        until_held(&mut client, &device);
        params.destroy();
        // It counts as long as it is there.
        let over = create(&client, memory(), STRIDE);
        client
            .wait("failed", |seen| seen.log.iter().filter(|e| **e == Event::Failed).count() == turn + 1)
            .unwrap();
        over.destroy();
        device.release(Call::FdToHandle);
        client.roundtrip().unwrap();
        assert_eq!((created(&client).len(), held(&server).0), (1 + turn, handles));
        // There is room again.
        create(&client, memory(), STRIDE);
        client.roundtrip().unwrap();
        created(&client)[1 + turn].destroy();
        client.roundtrip().unwrap();
        assert_eq!((created(&client).len(), failed(&client)), (2 + turn, turn + 1));
    }
    assert_eq!(device.uses(Call::GemClose) - closes, 6);
}

#[test]
fn a_client_that_goes_while_it_waits_leaves_nothing() {
    let (server, device) = start(&[]);
    let mut other = server.connect().unwrap();
    create(&other, memory(), STRIDE);
    other.roundtrip().unwrap();
    created(&other)[0].destroy();
    other.roundtrip().unwrap();
    let before = held(&server).0;
    for roundtrip in [false, true] {
        device.hold(Call::FdToHandle);
        let mut gone = server.connect().unwrap();
        // Two that wait and one that is imported.
        (0..3).for_each(|_| drop(create(&gone, memory(), STRIDE)));
        until_held(&mut gone, &device);
        if roundtrip {
            assert!(!gone.roundtrip_within(Duration::from_millis(20)).unwrap());
        }
        drop(gone);
        // Its end is noticed at once, also while it is held.
        eventually("it is gone", || server.ask(|state| state.runtime.clients.len()).unwrap() == 1);
        let imports = device.uses(Call::FdToHandle);
        device.release(Call::FdToHandle);
        eventually("the import ends", || device.uses(Call::FdToHandle) > imports);
        eventually("all is given back", || held(&server).0 == before);
        assert_eq!(device.uses(Call::FdToHandle), imports + 1, "what nobody wants is not imported");
    }
    other.roundtrip().unwrap();
}

#[test]
fn who_waits_too_long_for_his_turn_is_served_without_the_import() {
    let (server, device) = start(&[]);
    let mut hostile = server.connect().unwrap();
    device.hold(Call::FdToHandle);
    (0..20).for_each(|_| drop(create(&hostile, memory(), STRIDE)));
    until_held(&mut hostile, &device);
    let mut innocent = server.connect().unwrap();
    let began = Instant::now();
    create(&innocent, memory(), STRIDE);
    innocent.roundtrip().unwrap();
    assert_eq!((created(&innocent).len(), failed(&innocent)), (1, 0));
    assert!(began.elapsed() >= Duration::from_millis(90) && began.elapsed() < LONG, "{:?}", began.elapsed());
    let window = innocent.open_window("innocent").unwrap();
    let show = |client: &mut Client| {
        window.surface.attach(Some(&created(client)[0]), 0, 0);
        window.surface.damage_buffer(0, 0, 1, 1);
        client.presented(&window.surface).unwrap()
    };
    assert!(!show(&mut innocent), "composited");
    device.release(Call::FdToHandle);
    hostile.roundtrip().unwrap();
    assert_eq!((created(&hostile).len(), failed(&hostile)), (20, 0), "nineteen of them were as late");
    eventually("it is on a plane", || show(&mut innocent));
}

#[test]
fn an_import_that_fails_late_fails_only_what_has_no_other_way() {
    let (server, device) = start(&[]);
    let mut client = server.connect().unwrap();
    device.fail(Call::FdToHandle, 1, Errno::NODEV);
    create(&client, memory(), STRIDE);
    client.roundtrip().unwrap();
    assert_eq!((created(&client).len(), failed(&client)), (1, 0), "the CPU can read it");
    device.fail(Call::FdToHandle, 1, Errno::NODEV);
    create(&client, memory(), STRIDE + 2);
    client.roundtrip().unwrap();
    assert_eq!((created(&client).len(), failed(&client)), (1, 1));
    let imports = server.stats().unwrap().imports;
    assert!(imports.last[0].reasons[0].starts_with("import: not imported: "), "{imports:?}");
}
