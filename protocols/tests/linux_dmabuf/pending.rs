//! A `create` that is answered later: once, whatever dies meanwhile.

use primeway_protocols::linux_dmabuf::{ImportError, MOD_LINEAR, PendingBuffer};
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Error, Flags, ZwpLinuxBufferParamsV1,
};

use super::harness::{Buffer, Plane, Server, State, TestClient, XRGB, feedback};

fn start() -> (Server, TestClient) {
    let mut server = Server::new(Some(feedback()));
    server.state.later = true;
    let client = server.connect(6);
    (server, client)
}

/// Asks for `count` buffers and waits until the compositor has heard of them.
fn ask(server: &mut Server, client: &mut TestClient, count: usize) -> Vec<ZwpLinuxBufferParamsV1> {
    let plane = || Plane { index: 0, size: 4096, offset: 0, stride: 64, modifier: MOD_LINEAR };
    let all: Vec<_> = (0..count).map(|_| client.params_with(&[plane()])).collect();
    all.iter().for_each(|params| params.create(16, 16, XRGB, Flags::empty()));
    client.roundtrip(server).unwrap();
    all
}

/// Answers the `nth` of those that wait; says whether the client has the buffer.
fn answer(server: &mut Server, nth: usize) -> bool {
    let (params, answer) = server.state.waiting.remove(nth);
    server.state.buffers += 1;
    let made = answer.send(Ok(Buffer(params)));
    server.state.buffers -= usize::from(!made);
    made
}

#[test]
fn an_answer_comes_when_it_is_given_and_once() {
    let (mut server, mut client) = start();
    let params = ask(&mut server, &mut client, 3);
    assert_eq!((client.log.created.len(), client.log.failed, server.state.waiting.len()), (0, 0, 3));
    // In any order, and for one of them there is no buffer.
    assert!(answer(&mut server, 1));
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed, server.state.buffers), (1, 0, 1));
    let (_, failing) = server.state.waiting.remove(1);
    assert!(!failing.send(Err(ImportError::Failed)));
    assert!(answer(&mut server, 0));
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed, server.state.buffers), (2, 1, 2));
    params.iter().for_each(ZwpLinuxBufferParamsV1::destroy);
    client.log.created.iter().for_each(|buffer| buffer.destroy());
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed, server.state.buffers), (2, 1, 0));
}

#[test]
fn an_answer_that_is_forgotten_is_failed() {
    let (mut server, mut client) = start();
    ask(&mut server, &mut client, 1);
    // From another thread, too.
    let waiting = std::mem::take(&mut server.state.waiting);
    std::thread::spawn(move || drop(waiting)).join().unwrap();
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed), (0, 1));
}

#[test]
fn a_params_object_that_waits_for_its_answer_is_used() {
    let (mut server, mut client) = start();
    let params = ask(&mut server, &mut client, 1);
    params[0].create(16, 16, XRGB, Flags::empty());
    let error = client.roundtrip(&mut server).unwrap_err();
    assert_eq!(error.code, Error::AlreadyUsed as u32);
    // Its client is gone now.
    assert!(!server.state.waiting[0].1.is_wanted());
    assert!(!answer(&mut server, 0));
}

#[test]
fn nobody_is_told_of_a_buffer_whose_params_object_is_gone() {
    let (mut server, mut client) = start();
    let params = ask(&mut server, &mut client, 2);
    assert!(server.state.waiting.iter().all(|(_, answer)| answer.is_wanted()));
    params.iter().for_each(ZwpLinuxBufferParamsV1::destroy);
    client.roundtrip(&mut server).unwrap();
    assert!(!server.state.waiting[0].1.is_wanted());
    assert!(!answer(&mut server, 0));
    // Nor of one that is forgotten or fails.
    server.state.waiting.clear();
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed, server.state.buffers), (0, 0, 0));
    server.state.later = false;
    client.assert_alive(&mut server);
}

#[test]
fn a_client_may_go_before_its_answer() {
    let (mut server, mut client) = start();
    let mut other = server.connect(6);
    ask(&mut server, &mut client, 3);
    drop(client);
    server.dispatch();
    assert!(!server.state.waiting[0].1.is_wanted());
    assert!(!answer(&mut server, 0));
    let (_, failing) = server.state.waiting.remove(0);
    assert!(!failing.send(Err(ImportError::OutOfBounds)));
    server.state.waiting.clear();
    assert_eq!(server.state.buffers, 0);
    server.state.later = false;
    other.assert_alive(&mut server);
}

#[test]
fn a_late_error_is_as_fatal_as_an_early_one() {
    let (mut server, mut client) = start();
    let mut other = server.connect(6);
    ask(&mut server, &mut client, 1);
    let (_, answer) = server.state.waiting.remove(0);
    assert!(!answer.send(Err(ImportError::OutOfBounds)));
    let error = client.roundtrip(&mut server).unwrap_err();
    assert_eq!(error.code, Error::OutOfBounds as u32);
    server.state.later = false;
    other.assert_alive(&mut server);
}

#[test]
fn an_answer_can_be_given_from_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<PendingBuffer<State>>();
    let (mut server, mut client) = start();
    ask(&mut server, &mut client, 1);
    let (params, answer) = server.state.waiting.remove(0);
    server.state.buffers += 1;
    assert!(std::thread::spawn(move || answer.send(Ok(Buffer(params)))).join().unwrap());
    client.roundtrip(&mut server).unwrap();
    assert_eq!((client.log.created.len(), client.log.failed), (1, 0));
}
