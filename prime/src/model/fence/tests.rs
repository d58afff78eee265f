//! Who waits for whom: the fence parts of IGT's vgem_basic and dmabuf_sync_file on plain values, and a random walk
//! against a reference that keeps every fence ever added.

use std::thread;

use proptest::prelude::*;

use super::*;

const BOTH: PollFlags = PollFlags::IN.union(PollFlags::OUT);
const READ: ImplicitAccess = ImplicitAccess::Read;
const WRITE: ImplicitAccess = ImplicitAccess::Write;

/// What `poll` says of a dma-buf that nobody polled before.
fn ready(resv: &Resv) -> PollFlags {
    DmabufPoll::default().poll(resv, BOTH)
}

fn attach(vgem: &mut VgemFences, resv: &mut Resv, access: ImplicitAccess) -> Result<u32, Errno> {
    VgemFences::check(resv, access)?;
    let fence = vgem.make();
    resv.add(fence.clone(), access.usage());
    vgem.remember(fence)
}

fn vgem() -> (Arc<Clock>, VgemFences) {
    let clock = Arc::new(Clock::default());
    (Arc::clone(&clock), VgemFences::new(clock))
}

#[test]
fn a_read_fence_keeps_writers_away_and_a_write_fence_everybody() {
    let (_, mut vgem) = vgem();
    let mut resv = Resv::default();
    assert_eq!(ready(&resv), BOTH);
    let read = attach(&mut vgem, &mut resv, READ).unwrap();
    assert_eq!(ready(&resv), PollFlags::IN);
    vgem.signal(read, 0).unwrap();
    assert_eq!(ready(&resv), BOTH);
    let write = attach(&mut vgem, &mut resv, WRITE).unwrap();
    assert_eq!(ready(&resv), PollFlags::empty());
    vgem.signal(write, 0).unwrap();
    assert_eq!(ready(&resv), BOTH);
}

#[test]
fn conflicting_fences_are_ebusy_and_readers_do_not_conflict() {
    let (_, mut vgem) = vgem();
    let mut resv = Resv::default();
    let one = attach(&mut vgem, &mut resv, READ).unwrap();
    let two = attach(&mut vgem, &mut resv, READ).unwrap();
    assert_eq!(attach(&mut vgem, &mut resv, WRITE), Err(Errno::BUSY));
    vgem.signal(one, 0).unwrap();
    assert_eq!(attach(&mut vgem, &mut resv, WRITE), Err(Errno::BUSY));
    vgem.signal(two, 0).unwrap();
    let write = attach(&mut vgem, &mut resv, WRITE).unwrap();
    assert_eq!(attach(&mut vgem, &mut resv, WRITE), Err(Errno::BUSY));
    assert_eq!(attach(&mut vgem, &mut resv, READ), Err(Errno::BUSY));
    vgem.signal(write, 0).unwrap();
    assert!(attach(&mut vgem, &mut resv, READ).is_ok());
}

#[test]
fn numbers_are_the_files_own_and_never_come_again() {
    let (_, mut vgem) = vgem();
    let (mut a, mut b) = (Resv::default(), Resv::default());
    assert_eq!(attach(&mut vgem, &mut a, READ), Ok(1));
    assert_eq!(attach(&mut vgem, &mut b, READ), Ok(2));
    for unknown in [0, 3, u32::MAX] {
        assert_eq!(vgem.signal(unknown, 0), Err(Errno::NOENT));
    }
    assert_eq!(vgem.signal(1, 1), Err(Errno::INVAL), "flags are looked at first");
    assert_eq!(vgem.signal(9, 1), Err(Errno::INVAL));
    assert_eq!(vgem.signal(1, 0), Ok(()));
    assert_eq!(vgem.signal(1, 0), Err(Errno::NOENT));
    assert_eq!(attach(&mut vgem, &mut a, READ), Ok(3));
    assert_eq!((vgem.len(), vgem.is_empty()), (2, false));
    assert_eq!((vgem.signal(2, 0), vgem.signal(3, 0)), (Ok(()), Ok(())));
    assert!(vgem.is_empty());
}

#[test]
fn numbers_run_out() {
    let (_, mut vgem) = vgem();
    vgem.last = i32::MAX.cast_unsigned() - 1;
    assert_eq!(vgem.remember(Fence::new()), Ok(i32::MAX.cast_unsigned()));
    let refused = Fence::new();
    assert_eq!(vgem.remember(refused.clone()), Err(Errno::NOSPC));
    assert!(refused.is_signalled());
}

#[test]
fn an_unsignalled_fence_expires_after_ten_seconds() {
    let (clock, mut vgem) = vgem();
    let mut resv = Resv::default();
    let fence = attach(&mut vgem, &mut resv, WRITE).unwrap();
    clock.advance(VGEM_FENCE_TIMEOUT - Duration::from_secs(1));
    assert_eq!(ready(&resv), PollFlags::empty());
    clock.advance(Duration::from_secs(1));
    assert_eq!(ready(&resv), BOTH);
    assert_eq!(vgem.signal(fence, 0), Err(Errno::TIMEDOUT));
    assert_eq!(vgem.signal(fence, 0), Err(Errno::NOENT));
}

#[test]
fn closing_the_file_signals_what_it_left() {
    let (_, mut vgem) = vgem();
    let mut resv = Resv::default();
    attach(&mut vgem, &mut resv, WRITE).unwrap();
    drop(vgem);
    assert_eq!(ready(&resv), BOTH);
}

#[test]
fn flags_and_padding_are_checked() {
    let attach = ImplicitAccess::from_vgem_flags;
    assert_eq!((attach(0, 0), attach(VGEM_FENCE_WRITE, 0)), (Ok(READ), Ok(WRITE)));
    for (flags, pad) in [(2, 0), (3, 0), (0xdead_beef, 0), (0, 1), (1, 0xbeef)] {
        assert_eq!(attach(flags, pad), Err(Errno::INVAL), "{flags} {pad}");
    }
    let sync_file = ImplicitAccess::from_sync_file_flags;
    assert_eq!([sync_file(1), sync_file(2), sync_file(3)], [Ok(READ), Ok(WRITE), Ok(WRITE)]);
    for flags in [0, 4, 5, 7, 8, 1 << 31] {
        assert_eq!(sync_file(flags), Err(Errno::INVAL), "{flags}");
    }
    let expected = [Some(READ), Some(WRITE), Some(WRITE)].map(Ok);
    assert_eq!([1, 2, 3].map(sync_flags), expected);
    assert_eq!([5, 6, 7].map(sync_flags), [Ok(None); 3]);
    for flags in [0, 4, 8, 9, 1 << 32 | 1, u64::MAX] {
        assert_eq!(sync_flags(flags), Err(Errno::INVAL), "{flags}");
    }
}

#[test]
fn an_exported_sync_file_is_a_snapshot() {
    let mut resv = Resv::default();
    // Nothing to wait for: signalled, of one stub.
    let nothing = resv.export(WRITE);
    assert!(nothing.is_signalled() && nothing.fences().len() == 1);
    let (first, later) = (Fence::new(), Fence::new());
    resv.add(first.clone(), Usage::Write);
    let (read, write) = (resv.export(READ), resv.export(WRITE));
    resv.add(later.clone(), Usage::Write);
    let both = resv.export(READ);
    assert_eq!(both.fences(), [first.clone(), later.clone()]);
    assert!(nothing.is_signalled() && !read.is_signalled());
    first.signal();
    assert!(read.is_signalled() && write.is_signalled() && !both.is_signalled());
    later.signal();
    // Its size stays what it was when it was made.
    assert!(both.is_signalled() && both.fences().len() == 2);
    assert_eq!(resv.export(WRITE).fences().len(), 1);
}

#[test]
fn readers_are_exported_to_writers_only() {
    let mut resv = Resv::default();
    let (reader, writer) = (Fence::new(), Fence::new());
    resv.add(reader.clone(), Usage::Read);
    assert!(resv.export(READ).is_signalled() && !resv.export(WRITE).is_signalled());
    resv.add(writer.clone(), Usage::Write);
    reader.signal();
    assert!(!resv.export(READ).is_signalled() && !resv.export(WRITE).is_signalled());
    writer.signal();
    assert!(resv.export(READ).is_signalled() && resv.export(WRITE).is_signalled());
}

#[test]
fn memory_management_holds_everybody_and_bookkeeping_nobody() {
    let mut resv = Resv::default();
    let (kernel, bookkeep) = (Fence::new(), Fence::new());
    resv.add(bookkeep, Usage::Bookkeep);
    assert_eq!(ready(&resv), BOTH);
    resv.add(kernel.clone(), Usage::Kernel);
    assert_eq!(ready(&resv), PollFlags::empty());
    kernel.signal();
    assert_eq!(ready(&resv), BOTH);
    assert!(!resv.is_signalled(Usage::Bookkeep));
}

#[test]
fn thirty_two_imported_readers_and_a_writer() {
    let mut resv = Resv::default();
    let readers: Vec<_> = (0..32).map(|_| Fence::new()).collect();
    for reader in &readers {
        resv.import(&FenceSet::one(reader.clone()), READ);
    }
    let writer = Fence::new();
    resv.import(&FenceSet::one(writer.clone()), WRITE);
    assert_eq!(resv.export(WRITE).fences().len(), 33);
    assert_eq!(resv.export(READ).fences().len(), 1);
    for (at, reader) in readers.iter().enumerate() {
        assert_eq!(ready(&resv), PollFlags::empty(), "reader {at}");
        reader.signal();
    }
    assert_eq!(ready(&resv), PollFlags::empty());
    writer.signal();
    assert_eq!(ready(&resv), BOTH);
    // Signalled fences give their places away.
    for _ in 0..100 {
        let fence = Fence::new();
        resv.add(fence.clone(), Usage::Write);
        fence.signal();
    }
    assert_eq!(resv.fences.len(), 33);
}

#[test]
fn importing_a_set_adds_each_of_its_fences() {
    let (a, b) = (Fence::new(), Fence::new());
    let set = FenceSet::one(a.clone()).merge(&FenceSet::one(b.clone()));
    let mut resv = Resv::default();
    resv.import(&set, READ);
    assert_eq!(resv.export(WRITE).fences(), [a.clone(), b.clone()]);
    a.signal();
    assert_eq!(resv.export(WRITE).fences(), [b]);
}

#[test]
fn a_fence_is_promoted_and_never_degraded() {
    let mut resv = Resv::default();
    let fence = Fence::new();
    resv.add(fence.clone(), Usage::Bookkeep);
    resv.add(fence.clone(), Usage::Read);
    assert_eq!((resv.fences.len(), ready(&resv)), (1, PollFlags::IN));
    resv.add(fence.clone(), Usage::Write);
    assert_eq!((resv.fences.len(), ready(&resv)), (1, PollFlags::empty()));
    resv.add(fence.clone(), Usage::Read);
    assert_eq!(ready(&resv), PollFlags::empty());
    fence.signal();
    assert_eq!(ready(&resv), BOTH);
}

#[test]
fn merging_keeps_each_pending_fence_once() {
    let fences: Vec<_> = (0..3).map(|_| Fence::new()).collect();
    let set = |at: usize| FenceSet::one(fences[at].clone());
    assert_ne!(set(0), set(1));
    let all = set(2).merge(&set(0)).merge(&set(1)).merge(&set(0));
    assert_eq!(all.fences(), fences);
    fences[1].signal();
    assert_eq!(all.fences().len(), 3);
    assert_eq!(all.merge(&all).fences(), [fences[0].clone(), fences[2].clone()]);
    assert_eq!(set(0).merge(&set(1)).fences(), [fences[0].clone()]);
    let done = set(1).merge(&FenceSet::one(Fence::stub()));
    assert!(done.is_signalled() && done.fences().len() == 1);
}

#[test]
fn poll_holds_a_reference_for_each_side_that_waits() {
    let mut resv = Resv::default();
    let (reader, writer, next) = (Fence::new(), Fence::new(), Fence::new());
    resv.add(reader.clone(), Usage::Read);
    let mut poll = DmabufPoll::default();
    assert_eq!((poll.poll(&resv, BOTH), poll.references()), (PollFlags::IN, 1));
    assert_eq!((poll.poll(&resv, PollFlags::IN), poll.references()), (PollFlags::IN, 1));
    resv.add(writer.clone(), Usage::Write);
    assert_eq!(poll.poll(&resv, PollFlags::PRI), PollFlags::empty());
    assert_eq!((poll.poll(&resv, BOTH), poll.references()), (PollFlags::empty(), 2));
    reader.signal();
    assert_eq!(poll.references(), 1);
    writer.signal();
    assert_eq!(poll.references(), 0);
    // Ready again only after all are looked at anew.
    resv.add(next.clone(), Usage::Read);
    assert_eq!((poll.poll(&resv, BOTH), poll.references()), (PollFlags::IN, 1));
    next.signal();
    assert_eq!((poll.poll(&resv, BOTH), poll.references()), (BOTH, 0));
}

#[test]
fn waiting_ends_with_the_signal_the_time_or_the_expiry() {
    let (fence, other) = (Fence::new(), Fence::new());
    assert!(!fence.wait(Some(Duration::ZERO)));
    assert!(!fence.wait(Some(Duration::from_millis(5))));
    let set = FenceSet::one(fence.clone()).merge(&FenceSet::one(other.clone()));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| set.wait(None));
        fence.signal();
        assert!(!set.wait(Some(Duration::from_millis(5))) && !waiter.is_finished());
        other.signal();
        assert!(waiter.join().unwrap());
    });
    let clock = Arc::new(Clock::default());
    let expiring = Fence::expiring(&clock, VGEM_FENCE_TIMEOUT);
    thread::scope(|scope| {
        let waiter = scope.spawn(|| expiring.wait(None));
        clock.advance(VGEM_FENCE_TIMEOUT);
        assert!(waiter.join().unwrap());
    });
    assert!(expiring.signal(), "expiring is not being told");
    assert!(!expiring.signal());
}

#[derive(Debug, Clone)]
enum Step {
    Add(u8),
    AddOld(usize, u8),
    Signal(usize),
    Poll(bool, bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..4_u8).prop_map(Step::Add),
        (any::<usize>(), 0..4_u8).prop_map(|(at, usage)| Step::AddOld(at, usage)),
        any::<usize>().prop_map(Step::Signal),
        (any::<bool>(), any::<bool>()).prop_map(|(read, write)| Step::Poll(read, write)),
    ];
    prop::collection::vec(step, 0..60)
}

fn usage(of: u8) -> Usage {
    [Usage::Kernel, Usage::Write, Usage::Read, Usage::Bookkeep][usize::from(of)]
}

proptest! {
    /// The reference: the buffer is busy for an access if any fence ever added for what it waits for is unsignalled.
    #[test]
    fn places_given_away_change_nobodys_waiting(steps in steps()) {
        let mut resv = Resv::default();
        let mut poll = DmabufPoll::default();
        let mut fences: Vec<Fence> = Vec::new();
        let mut added: Vec<(usize, Usage)> = Vec::new();
        for step in steps {
            match step {
                Step::Add(of) => {
                    fences.push(Fence::new());
                    added.push((fences.len() - 1, usage(of)));
                    resv.add(fences[fences.len() - 1].clone(), usage(of));
                }
                Step::AddOld(at, of) if !fences.is_empty() => {
                    let at = at % fences.len();
                    added.push((at, usage(of)));
                    resv.add(fences[at].clone(), usage(of));
                }
                Step::Signal(at) if !fences.is_empty() => {
                    fences[at % fences.len()].signal();
                }
                Step::Poll(read, write) => {
                    let mut events = PollFlags::empty();
                    events.set(PollFlags::IN, read);
                    events.set(PollFlags::OUT, write);
                    let ready = poll.poll(&resv, events);
                    prop_assert_eq!(ready.contains(PollFlags::IN), read && resv.is_signalled(Usage::Write));
                    prop_assert_eq!(ready.contains(PollFlags::OUT), write && resv.is_signalled(Usage::Read));
                }
                Step::AddOld(..) | Step::Signal(_) => {}
            }
            for of in [Usage::Kernel, Usage::Write, Usage::Read, Usage::Bookkeep] {
                let busy = added.iter().any(|(at, added)| *added <= of && !fences[*at].is_signalled());
                prop_assert_eq!(resv.is_signalled(of), !busy, "{:?}", of);
            }
        }
    }
}
