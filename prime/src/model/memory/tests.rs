//! Pages, bytes, and descriptors whose lives are followed across duplicates, mappings, sockets and processes.

use std::{io::IoSlice, mem::MaybeUninit, os::unix::net::UnixStream, process::Command};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::*;
use crate::model::sg;

const PAGE: usize = PAGE_SIZE as usize;

fn memory(pages: u64) -> Memory {
    Memory::new(pages * u64::from(PAGE_SIZE), Placement::Scattered, &Frames::default())
}

fn memfd(size: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("foreign", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, size).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

fn errno(result: io::Result<impl std::fmt::Debug>) -> Option<Errno> {
    Errno::from_io_error(&result.unwrap_err())
}

/// Waits for a death to be seen: between its fork and its exec, a process that another test starts has a duplicate of every
/// descriptor of this one.
fn settles(outside: &Outside, alive: usize) {
    let started = std::time::Instant::now();
    while outside.alive() != alive && started.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(outside.alive(), alive);
}

/// Sends a descriptor through a socket, and takes it out at the other end.
fn send(from: &UnixStream, fd: BorrowedFd<'_>) {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(from, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

fn receive(to: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(to, &mut [io::IoSliceMut::new(&mut byte)], &mut control, flags).unwrap();
    let mut fds = control.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
        _ => Vec::new(),
    });
    fds.next().unwrap()
}

#[test]
fn pages_are_runs_with_gaps_and_nobody_elses() {
    let frames = Frames::default();
    let size = 100 * u64::from(PAGE_SIZE);
    let all: Vec<_> = (0..20).map(|_| Memory::new(size, Placement::Scattered, &frames)).collect();
    let mut seen = std::collections::HashSet::new();
    for memory in &all {
        let pages = memory.pages();
        assert_eq!(pages.len(), 100);
        assert_eq!(pages, memory.pages());
        assert!(pages.iter().all(|page| seen.insert(*page)), "a frame was given out twice");
        let table = sg::pages_to_sg(&pages, 0, &mut |_| Ok(())).unwrap();
        // Coalescing is visible: fewer segments than pages, more than one.
        assert!((13..80).contains(&table.entries().len()), "{}", table.entries().len());
        assert!(!memory.is_materialised());
    }
    let again = Memory::new(size, Placement::Scattered, &Frames::default());
    assert_eq!(again.pages(), all[0].pages(), "another run, other pages");
    assert_ne!(
        all[0].pages()[1..].iter().map(|page| page.0 - all[0].pages()[0].0).collect::<Vec<_>>(),
        all[1].pages()[1..].iter().map(|page| page.0 - all[1].pages()[0].0).collect::<Vec<_>>(),
        "all buffers have the same pattern"
    );
    let whole = Memory::new(size, Placement::Contiguous, &frames);
    assert_eq!(sg::pages_to_sg(&whole.pages(), 0, &mut |_| Ok(())).unwrap().entries().len(), 1);
}

#[test]
fn bytes_are_shared_zero_and_of_fixed_size() {
    let memory = memory(2);
    assert!(!memory.is_materialised());
    let mut one = memory.map(0, 2 * PAGE, Access::ReadWrite).unwrap();
    assert!(memory.is_materialised());
    let other = memory.map(PAGE as u64, PAGE, Access::ReadOnly).unwrap();
    let mut byte = [9];
    assert!(other.read(0, &mut byte) && byte == [0]);
    assert!(one.write(PAGE, b"x") && other.read(0, &mut byte) && byte == *b"x");
    assert_eq!(errno(memory.map(0, 2 * PAGE + 1, Access::ReadOnly)), Some(Errno::INVAL));
    assert_eq!(errno(memory.map(PAGE as u64, 2 * PAGE, Access::ReadOnly)), Some(Errno::INVAL));
    assert_eq!(errno(memory.map(u64::MAX, 1, Access::ReadOnly)), Some(Errno::INVAL));
    assert_eq!(errno(memory.map(0, 0, Access::ReadOnly)), Some(Errno::INVAL));
    let file = memory.file().unwrap();
    for size in [0, PAGE as u64, 3 * PAGE as u64] {
        assert_eq!(rustix::fs::ftruncate(file, size), Err(Errno::PERM));
    }
    assert_eq!(rustix::fs::fcntl_add_seals(file, SealFlags::WRITE), Err(Errno::PERM));
}

#[test]
fn a_descriptor_lives_until_its_last_duplicate_and_mapping() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    assert!(!outside.escaped() && outside.alive() == 0);
    let fd = outside.hand_out(&memory).unwrap();
    assert!(outside.escaped());
    assert_eq!(outside.alive(), 1);
    let dup = fd.try_clone().unwrap();
    drop(fd);
    assert_eq!(outside.alive(), 1);
    let mapping = Mapping::of_fd(dup.as_fd(), 0, PAGE, true).unwrap();
    drop(dup);
    assert_eq!(outside.alive(), 1);
    drop(mapping);
    settles(&outside, 0);
    assert!(outside.escaped());
}

#[test]
fn each_descriptor_is_counted_for_itself() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    let mut fds: Vec<_> = (0..5).map(|_| outside.hand_out(&memory).unwrap()).collect();
    assert_eq!(outside.alive(), 5);
    fds.remove(2);
    settles(&outside, 4);
    fds.remove(0);
    fds.push(outside.hand_out(&memory).unwrap());
    settles(&outside, 4);
    fds.clear();
    settles(&outside, 0);
    // The same buffer from whichever descriptor; none of them is another's file.
    let (a, b) = (outside.hand_out(&memory).unwrap(), outside.hand_out(&memory).unwrap());
    assert_eq!(DmabufId::of(a.as_fd()).unwrap(), memory.id().unwrap());
    assert_eq!(DmabufId::of(b.as_fd()).unwrap(), memory.id().unwrap());
    assert_ne!(self::memory(1).id().unwrap(), memory.id().unwrap());
}

#[test]
fn two_dmabufs_of_one_memory_are_counted_apart() {
    let memory = memory(1);
    let (one, two) = (Outside::new(Access::ReadWrite), Outside::new(Access::ReadOnly));
    let first = one.hand_out(&memory).unwrap();
    let second = two.hand_out(&memory).unwrap();
    let third = one.hand_out(&memory).unwrap();
    assert_eq!((one.alive(), two.alive()), (2, 1));
    drop(second);
    settles(&two, 0);
    assert_eq!(one.alive(), 2);
    drop((first, third));
    settles(&one, 0);
}

#[test]
fn the_dead_are_forgotten_without_being_asked_after() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    let survivor = outside.hand_out(&memory).unwrap();
    for _ in 0..1000 {
        drop(outside.hand_out(&memory).unwrap());
    }
    assert!(outside.lock().bytes.len() < 100);
    settles(&outside, 1);
    drop(survivor);
    settles(&outside, 0);
}

#[test]
fn what_is_on_its_way_through_a_socket_is_alive() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    let (here, there) = UnixStream::pair().unwrap();
    send(&here, outside.hand_out(&memory).unwrap().as_fd());
    assert_eq!(outside.alive(), 1);
    let fd = receive(&there);
    assert_eq!(DmabufId::of(fd.as_fd()).unwrap(), memory.id().unwrap());
    assert_eq!(outside.alive(), 1);
    drop(fd);
    settles(&outside, 0);
    // Never taken out: it dies with the socket.
    send(&here, outside.hand_out(&memory).unwrap().as_fd());
    drop(here);
    assert_eq!(outside.alive(), 1);
    drop(there);
    settles(&outside, 0);
}

#[test]
fn another_process_keeps_a_descriptor_alive_and_sees_the_bytes() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    let fd = outside.hand_out(&memory).unwrap();
    let mut child =
        Command::new("sh").args(["-c", "printf hello >&0; exec sleep 600"]).stdin(fd).spawn().unwrap();
    let mapping = memory.map(0, PAGE, Access::ReadOnly).unwrap();
    let started = std::time::Instant::now();
    let mut bytes = [0; 5];
    while bytes != *b"hello" && started.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(5));
        assert!(mapping.read(0, &mut bytes));
    }
    assert_eq!(&bytes, b"hello");
    let alive = outside.alive();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(alive, 1);
    settles(&outside, 0);
}

#[test]
fn a_read_only_descriptor_cannot_be_mapped_for_writing() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadOnly);
    let fd = outside.hand_out(&memory).unwrap();
    assert_eq!(errno(Mapping::of_fd(fd.as_fd(), 0, PAGE, true)), Some(Errno::ACCESS));
    let mapping = Mapping::of_fd(fd.as_fd(), 0, PAGE, false).unwrap();
    drop(fd);
    assert_eq!(outside.alive(), 1);
    drop(mapping);
    settles(&outside, 0);
    // The memory itself stays writable for its owner.
    assert!(memory.map(0, PAGE, Access::ReadWrite).is_ok());
}

#[test]
fn a_kept_description_is_one_file_and_hides_its_end() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    outside.keep(true);
    let (a, b) = (outside.hand_out(&memory).unwrap(), outside.hand_out(&memory).unwrap());
    // One file: a flag set through one is seen through the other.
    rustix::fs::fcntl_setfl(&a, OFlags::NONBLOCK).unwrap();
    assert!(rustix::fs::fcntl_getfl(&b).unwrap().contains(OFlags::NONBLOCK));
    assert!(crate::sys::same_file(a.as_fd(), b.as_fd()).unwrap_or(true));
    drop((a, b));
    assert_eq!(outside.alive(), 1);
    outside.keep(false);
    settles(&outside, 0);
    outside.keep(true);
    let survivor = outside.hand_out(&memory).unwrap();
    outside.keep(false);
    assert_eq!(outside.alive(), 1);
    drop(survivor);
    settles(&outside, 0);
}

#[test]
fn a_sealed_memfd_is_adopted() {
    let frames = Frames::default();
    let fd = memfd(3 * PAGE as u64, SealFlags::SHRINK);
    let memory = Memory::adopt(fd.as_fd(), &frames).unwrap();
    assert_eq!(
        (memory.size(), memory.access(), memory.pages().len()),
        (3 * PAGE as u64, Access::ReadWrite, 3)
    );
    assert_eq!(memory.id().unwrap(), DmabufId::of(fd.as_fd()).unwrap());
    drop(fd);
    assert!(memory.map(0, 3 * PAGE, Access::ReadWrite).unwrap().write(0, b"x"));
    let outside = Outside::new(memory.access());
    let out = outside.hand_out(&memory).unwrap();
    assert_eq!(outside.alive(), 1);
    drop(out);
    settles(&outside, 0);
    // A size within a page keeps its number; the page's rest reads as zero.
    let odd = Memory::adopt(memfd(100, SealFlags::SHRINK | SealFlags::WRITE).as_fd(), &frames).unwrap();
    assert_eq!((odd.size(), odd.access(), odd.pages().len()), (100, Access::ReadOnly, 1));
    assert_eq!(errno(odd.map(0, 100, Access::ReadWrite)), Some(Errno::ACCESS));
    assert!(odd.map(0, PAGE, Access::ReadOnly).is_ok());
}

#[test]
fn what_could_shrink_or_is_no_memfd_is_refused() {
    let frames = Frames::default();
    let refused = |fd: BorrowedFd<'_>| Memory::adopt(fd, &frames).map(|memory| memory.size());
    assert_eq!(refused(memfd(4096, SealFlags::empty()).as_fd()), Err(Errno::INVAL));
    assert_eq!(refused(memfd(4096, SealFlags::GROW | SealFlags::SEAL).as_fd()), Err(Errno::INVAL));
    assert_eq!(refused(memfd(0, SealFlags::SHRINK).as_fd()), Err(Errno::INVAL));
    assert_eq!(refused(std::fs::File::open("/dev/null").unwrap().as_fd()), Err(Errno::INVAL));
    assert_eq!(refused(std::fs::File::open("/proc/self/status").unwrap().as_fd()), Err(Errno::INVAL));
    assert_eq!(refused(UnixStream::pair().unwrap().0.as_fd()), Err(Errno::INVAL));
    let sealed = memfd(4096, SealFlags::SHRINK);
    let reopen = |flags: OFlags| {
        let path = format!("/proc/self/fd/{}", sealed.as_raw_fd());
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    for seal in [SealFlags::WRITE, SealFlags::FUTURE_WRITE] {
        let sealed = Memory::adopt(memfd(4096, SealFlags::SHRINK | seal).as_fd(), &frames).unwrap();
        assert_eq!(sealed.access(), Access::ReadOnly);
    }
    assert_eq!(refused(reopen(OFlags::WRONLY).as_fd()), Err(Errno::INVAL));
    assert_eq!(refused(reopen(OFlags::PATH).as_fd()), Err(Errno::BADF));
    let readable = Memory::adopt(reopen(OFlags::RDONLY).as_fd(), &frames).unwrap();
    assert_eq!(readable.access(), Access::ReadOnly);
}

#[test]
fn a_holder_that_drops_the_lock_counts_as_gone_and_keeps_its_bytes() {
    let memory = memory(1);
    let outside = Outside::new(Access::ReadWrite);
    let fd = outside.hand_out(&memory).unwrap();
    // Any lock call on its own description will do: unlocking all.
    rustix::fs::fcntl_lock(&fd, rustix::fs::FlockOperation::Unlock).unwrap();
    assert_eq!(outside.alive(), 1, "a lock of the process is not one of the description");
    crate::sys::unlock_all(fd.as_fd()).unwrap();
    settles(&outside, 0);
    assert_eq!(DmabufId::of(fd.as_fd()).unwrap(), memory.id().unwrap());
    assert!(Mapping::of_fd(fd.as_fd(), 0, PAGE, true).is_ok());
}

#[test]
fn frames_are_set_aside_with_room_for_every_gap() {
    let frames = Frames::default();
    let starts = [1, 2, 5, 1].map(|pages| frames.set_aside(pages));
    let gaps: Vec<u64> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [1, 2, 5].map(|pages| pages * (1 + LONGEST_GAP)));
}
