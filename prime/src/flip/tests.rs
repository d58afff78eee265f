//! Tests of what keeps a shared framebuffer open: every way to let go of it while a flip is pending is tried.

use std::os::fd::AsFd;

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::io::Errno;

use super::*;
use crate::{
    cache::FramebufferCache,
    device::faults::Call,
    dmabuf::{BufferPlane, Dmabuf},
    handles::HandleTable,
    testbed::{TestDevice, memory, table},
};

const PLANE: NonZeroU32 = NonZeroU32::new(31).unwrap();
const OTHER: NonZeroU32 = NonZeroU32::new(32).unwrap();

fn shared(table: &HandleTable) -> SharedFramebuffer {
    let fd = memory(1024);
    let plane = BufferPlane { fd: fd.as_fd(), offset: 0, stride: 64 };
    let buffer = Dmabuf::new(16, 16, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane]).unwrap();
    SharedFramebuffer::new(Framebuffer::new(table, &buffer, false).unwrap())
}

/// The framebuffers that are open, on which the books and the device agree.
fn open(device: &TestDevice, table: &HandleTable) -> Vec<u32> {
    assert_eq!(table.stats().framebuffers, device.framebuffers());
    table.ledger().framebuffers.iter().map(|entry| entry.name.0.get()).collect()
}

/// A commit of one plane that the driver takes.
fn show(planes: &mut PlaneFramebuffers, plane: NonZeroU32, framebuffer: &SharedFramebuffer) -> u32 {
    planes.commit(|staging| Ok::<_, ()>(staging.show(plane, framebuffer).get())).unwrap()
}

#[test]
fn a_watch_tells_of_one_framebuffer_and_is_no_reference() {
    let (device, table) = table();
    let (first, other) = (shared(&table), shared(&table));
    let watch = first.watch();
    assert!(watch.is_held() && watch.is_of(&first) && !watch.is_of(&other) && !first.is_shared());
    drop(first);
    assert!(!watch.is_held());
    assert_eq!(open(&device, &table), [other.name().0.get()]);
}

#[test]
fn a_pending_framebuffer_survives_its_eviction() {
    let (device, table) = table();
    let mut cache = FramebufferCache::new(table.clone());
    let mut planes = PlaneFramebuffers::new();
    let fd = memory(1024);
    let plane = BufferPlane { fd: fd.as_fd(), offset: 0, stride: 64 };
    let buffer = Dmabuf::new(16, 16, DrmFourcc::Xrgb8888, DrmModifier::Linear, &[plane]).unwrap();
    let framebuffer = cache.get_or_import(1, &buffer, false).unwrap();
    let id = show(&mut planes, PLANE, &framebuffer);
    assert_eq!(planes.pending(PLANE), Some(&framebuffer));
    drop(framebuffer);
    cache.remove(&1);
    cache.clear();
    assert_eq!(open(&device, &table), [id], "pending");
    assert!(planes.flipped());
    assert_eq!(open(&device, &table), [id], "on screen");
    let next = shared(cache.table());
    let next_id = show(&mut planes, PLANE, &next);
    assert_eq!(open(&device, &table), [id, next_id], "on screen until the next flip");
    assert!(planes.flipped());
    assert_eq!(open(&device, &table), [next_id]);
    drop(next);
    drop(planes);
    assert_eq!(open(&device, &table), [] as [u32; 0]);
    assert_eq!(table.stats().violations, 0);
    assert!(device.is_clean());
}

#[test]
fn a_refused_commit_changes_nothing() {
    let (device, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let (first, second) = (shared(&table), shared(&table));
    show(&mut planes, PLANE, &first);
    planes.flipped();
    let refused = planes.commit(|staging| {
        staging.show(PLANE, &second);
        staging.turn_off(OTHER);
        Err::<(), _>(Errno::BUSY)
    });
    assert_eq!(refused, Err(Errno::BUSY));
    assert_eq!((planes.current(PLANE), planes.pending(PLANE), planes.outstanding()), (Some(&first), None, 0));
    assert!(!second.is_shared());
    let tested = planes.test(|staging| staging.show(PLANE, &second).get());
    assert_eq!(tested.to_string(), second.name().to_string());
    assert!(!second.is_shared(), "a test keeps nothing");
    drop(second);
    assert_eq!(open(&device, &table).len(), 1);
    // An event without a commit leaves what is shown alone.
    assert!(planes.flipped());
    assert_eq!(planes.current(PLANE), Some(&first));
}

#[test]
fn planes_that_a_commit_does_not_name_stay_as_they_are() {
    let (_, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let (first, second) = (shared(&table), shared(&table));
    show(&mut planes, PLANE, &first);
    planes.flipped();
    show(&mut planes, OTHER, &second);
    assert_eq!(planes.pending(PLANE), None);
    planes.flipped();
    assert_eq!((planes.current(PLANE), planes.current(OTHER)), (Some(&first), Some(&second)));
    planes
        .commit(|staging| {
            staging.turn_off(PLANE);
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!((planes.current(PLANE), planes.pending(PLANE)), (Some(&first), None));
    assert!(first.is_shared());
    planes.flipped();
    assert_eq!((planes.current(PLANE), planes.current(OTHER)), (None, Some(&second)));
    assert!(!first.is_shared());
    planes
        .commit(|staging| {
            staging.turn_all_off();
            Ok::<_, ()>(())
        })
        .unwrap();
    planes.flipped();
    assert!(!second.is_shared());
}

/// The session was switched away and back: the events of both commits come late.
#[test]
fn only_the_last_event_releases() {
    let (device, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let ids = [shared(&table), shared(&table), shared(&table)].map(|fb| show(&mut planes, PLANE, &fb));
    assert_eq!((open(&device, &table), planes.outstanding()), (ids.to_vec(), 3));
    assert!(!planes.flipped() && !planes.flipped());
    assert_eq!((open(&device, &table), planes.outstanding()), (ids.to_vec(), 1));
    assert!(planes.current(PLANE).is_none());
    assert!(planes.flipped());
    assert_eq!(open(&device, &table), [ids[2]]);
}

#[test]
fn a_commit_that_blocks_is_current_at_once() {
    let (device, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let (first, second) = (shared(&table), shared(&table));
    show(&mut planes, PLANE, &first);
    show(&mut planes, OTHER, &first);
    let failed = planes.commit_now(|staging| {
        staging.show(PLANE, &second);
        Err::<(), _>(())
    });
    assert_eq!((failed, planes.pending(PLANE)), (Err(()), Some(&first)));
    planes
        .commit_now(|staging| {
            staging.show(PLANE, &second);
            Ok::<_, ()>(())
        })
        .unwrap();
    assert_eq!((planes.current(PLANE), planes.pending(PLANE)), (Some(&second), None));
    assert_eq!((planes.current(OTHER), planes.pending(OTHER)), (None, Some(&first)));
    // The late event of the first commit brings nothing back.
    planes.flipped();
    planes.flipped();
    assert_eq!((planes.current(PLANE), planes.current(OTHER)), (Some(&second), Some(&first)));
    drop((first, second));
    planes
        .commit_now(|staging| {
            staging.turn_all_off();
            Ok::<_, ()>(())
        })
        .unwrap();
    assert!(open(&device, &table).is_empty());
}

#[test]
fn turning_off_removes_what_is_held_and_tells_who_shares_it() {
    let (device, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let shown = [shared(&table), shared(&table), shared(&table)];
    show(&mut planes, PLANE, &shown[0]);
    planes.flipped();
    show(&mut planes, PLANE, &shown[1]);
    show(&mut planes, PLANE, &shown[2]);
    let unseen = shared(&table);
    device.fail(Call::RemoveFramebuffer, 1, Errno::NODEV);
    let error = planes.turn_off().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    assert_eq!((device.uses(Call::RemoveFramebuffer), device.uses(Call::CloseFramebuffer)), (3, 0));
    assert_eq!(shown.iter().filter(|fb| !fb.is_open()).count(), 2, "all but the one that failed");
    assert!(unseen.is_open());
    assert!(planes.current(PLANE).is_none() && planes.pending(PLANE).is_none());
    drop((shown, planes));
    assert_eq!(
        (device.uses(Call::CloseFramebuffer), open(&device, &table).len()),
        (1, 1),
        "what was removed is not closed again"
    );
    drop(unseen);
    assert_eq!((table.stats().framebuffers, table.stats().violations), (0, 0));
}

#[test]
fn only_the_last_reference_gives_the_framebuffer_back() {
    let (device, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let framebuffer = shared(&table);
    let id = show(&mut planes, PLANE, &framebuffer);
    let framebuffer = framebuffer.into_inner().unwrap_err();
    planes.flipped();
    planes
        .commit(|staging| {
            staging.turn_off(PLANE);
            Ok::<_, ()>(())
        })
        .unwrap();
    let framebuffer = framebuffer.into_inner().unwrap_err();
    planes.flipped();
    let alone = framebuffer.into_inner().unwrap();
    assert_eq!(alone.id().get(), id);
    alone.remove().unwrap();
    assert!(open(&device, &table).is_empty());
}

#[test]
fn a_panic_while_a_commit_is_built_releases_nothing() {
    let (device, table) = table();
    let mut planes = PlaneFramebuffers::new();
    let framebuffer = shared(&table);
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        planes.commit(|staging| {
            staging.show(PLANE, &framebuffer);
            if framebuffer.is_shared() {
                panic!("after the ioctl, for all we know");
            }
            Ok::<_, ()>(())
        })
    }));
    assert!(caught.is_err());
    drop(framebuffer);
    let next = shared(&table);
    show(&mut planes, PLANE, &next);
    assert_eq!(open(&device, &table).len(), 2);
    planes.flipped();
    assert_eq!(open(&device, &table).len(), 1);
}

#[test]
fn references_are_equal_by_framebuffer() {
    let (_, table) = table();
    let (first, second) = (shared(&table), shared(&table));
    assert_eq!(first, first.clone());
    assert_ne!(first, second);
    assert_ne!(first.name(), second.name());
    assert_eq!((first.format(), first.modifier()), (DrmFourcc::Xrgb8888, DrmModifier::Linear));
    assert_eq!((first.width(), first.height(), first.handles().len()), (16, 16, 1));
    assert!(matches!(first.origin(), Origin::Foreign { .. }));
    assert!(format!("{first:?}").contains("Framebuffer"));
}
