//! Tests of the cache: what is asked once, what is remembered, what is tried again.

use drm_fourcc::{DrmFourcc, DrmModifier};
use rustix::io::Errno;

use super::*;
use crate::{
    device::faults::Call,
    dmabuf::LayoutError,
    flip::PlaneFramebuffers,
    quirks::Quirk,
    testbed::{TestDevice, argb, device_with, memory, plane, table},
};

#[test]
fn each_buffer_is_asked_about_once() {
    let (device, table) = table();
    let mut cache = FramebufferCache::new(table);
    let fd = memory(1024);
    let buffer = argb(&fd, DrmModifier::Linear);
    let first = cache.get_or_import(1, &buffer, false).unwrap();
    let again = cache.get_or_import(1, &buffer, false).unwrap();
    assert_eq!(first, again);
    assert_eq!((device.uses(Call::FdToHandle), device.uses(Call::AddFramebuffer)), (1, 1));
    let opaque = cache.get_or_import(1, &buffer, true).unwrap();
    assert_ne!(opaque.name(), first.name());
    assert_eq!((cache.get(&1, false), cache.get(&1, true)).0.unwrap().unwrap(), first);
    assert!(cache.get(&2, false).is_none());
    assert_eq!((cache.len(), cache.framebuffers(), cache.is_empty()), (1, 2, false));
    cache.remove(&1);
    assert_eq!(device.framebuffers(), 2, "in use elsewhere");
    drop((first, again, opaque));
    assert!(cache.is_empty() && cache.framebuffers() == 0);
    assert!(device.is_clean());
    for key in 1..4 {
        cache.get_or_import(key, &buffer, false).unwrap();
    }
    assert_eq!((cache.len(), device.framebuffers()), (3, 3));
    cache.clear();
    assert!(cache.is_empty() && device.is_clean());
}

/// Every refusal that says something about the buffer is remembered and answered without asking anybody again.
#[test]
fn refusals_are_remembered_with_their_reason() {
    let (device, table) = table();
    let mut cache = FramebufferCache::new(table);
    let (fd, short) = (memory(1024), memory(1023));
    let tiled = argb(&fd, DrmModifier::I915_x_tiled);
    let calls = |device: &TestDevice| (device.uses(Call::FdToHandle), device.uses(Call::AddFramebuffer));
    type Check = fn(&FramebufferError) -> bool;
    type Failure = Option<(Call, Errno)>;
    let mut refused = |key: &'static str, buffer: &Dmabuf<'_>, fail: Failure, is: Check| {
        if let Some((call, errno)) = fail {
            device.fail(call, 1, errno);
        }
        let error = cache.get_or_import(key, buffer, false).unwrap_err();
        assert!(is(&error), "{key}: {error:?}");
        let before = calls(&device);
        let again = cache.get_or_import(key, buffer, false).unwrap_err();
        let known = cache.get(&key, false).unwrap().unwrap_err();
        let unmade = cache.get_or_make(key, false, |_| panic!("tried again")).unwrap_err();
        assert!([&again, &known, &unmade].iter().all(|other| Arc::ptr_eq(other, &error)));
        assert_eq!(calls(&device), before, "{key}");
        assert!(cache.get(&key, true).is_none());
    };
    let linear = argb(&fd, DrmModifier::Linear);
    refused("driver", &linear, Some((Call::AddFramebuffer, Errno::INVAL)), |e| {
        matches!(e, FramebufferError::Refused { .. })
    });
    refused("import", &linear, Some((Call::FdToHandle, Errno::NODEV)), |e| {
        matches!(e, FramebufferError::Import { .. })
    });
    refused("size", &argb(&short, DrmModifier::Linear), None, |e| matches!(e, FramebufferError::Size(_)));
    refused("tiled", &tiled, None, |e| matches!(e, FramebufferError::Refused { .. }));
    let lie =
        cache.get_or_make("lie", false, |_| Err(LayoutError::Dimensions { width: 0, height: 1 }.into()));
    assert!(matches!(*lie.unwrap_err(), FramebufferError::Layout(_)));
    assert!(cache.get(&"lie", false).is_some_and(|known| known.is_err()));
    let split = [plane(&fd, 0, 32), plane(&fd, 512, 16)];
    let split = Dmabuf::new(16, 16, DrmFourcc::Rgb565_a8, DrmModifier::Linear, &split).unwrap();
    let twinless = cache.get_or_import("alpha", &split, true).unwrap_err();
    assert!(matches!(*twinless, FramebufferError::NoOpaqueSubstitute { .. }));
    assert!(Arc::ptr_eq(&cache.get(&"alpha", true).unwrap().unwrap_err(), &twinless));
    assert_eq!((cache.len(), cache.framebuffers()), (6, 0));
    cache.clear();
    assert!(device.is_clean());
}

#[test]
fn a_quirk_is_remembered_like_any_refusal() {
    let device = Arc::new(device_with(|driver| driver.modifiers = false).as_driver("vkms"));
    let mut cache = FramebufferCache::new(HandleTable::new(device.clone()));
    let fd = memory(4096);
    let shifted =
        Dmabuf::new(16, 16, DrmFourcc::Argb8888, DrmModifier::Linear, &[plane(&fd, 64, 64)]).unwrap();
    let error = cache.get_or_import(1, &shifted, false).unwrap_err();
    let quirk = |e: &_| matches!(e, FramebufferError::Quirk { source: Quirk::FirstPlaneOffset, driver } if driver == "vkms");
    assert!(quirk(&error), "{error:?}");
    let tiled = cache.get_or_import(2, &argb(&fd, DrmModifier::I915_x_tiled), false).unwrap_err();
    assert!(matches!(*tiled, FramebufferError::ModifiersUnsupported { .. }));
    let imports = device.uses(Call::FdToHandle);
    assert!(Arc::ptr_eq(&cache.get_or_import(1, &shifted, false).unwrap_err(), &error));
    assert!(Arc::ptr_eq(&cache.get(&2, false).unwrap().unwrap_err(), &tiled));
    assert_eq!((device.uses(Call::FdToHandle), device.uses(Call::AddFramebuffer)), (imports, 0));
    assert!(device.is_clean());
}

#[test]
fn failures_of_the_system_are_tried_again() {
    let (device, table) = table();
    let mut cache = FramebufferCache::new(table);
    let fd = memory(1024);
    let buffer = argb(&fd, DrmModifier::Linear);
    for (call, errno) in [(Call::AddFramebuffer, Errno::NOMEM), (Call::FdToHandle, Errno::MFILE)] {
        device.fail(call, 1, errno);
        let error = cache.get_or_import(3, &buffer, false).unwrap_err();
        assert_eq!(error.fault(), Fault::System);
        assert!(cache.get(&3, false).is_none() && cache.is_empty());
    }
    cache.get_or_import(3, &buffer, false).unwrap();
    assert_eq!((device.uses(Call::FdToHandle), device.uses(Call::AddFramebuffer)), (3, 2));
}

#[test]
fn a_framebuffer_that_was_removed_is_made_anew() {
    let (device, table) = table();
    let mut cache = FramebufferCache::new(table);
    let mut planes = PlaneFramebuffers::new();
    let fd = memory(1024);
    let buffer = argb(&fd, DrmModifier::Linear);
    let first = cache.get_or_import(1, &buffer, false).unwrap();
    let plane = std::num::NonZeroU32::new(1).unwrap();
    planes.commit(|staging| Ok::<_, ()>(staging.show(plane, &first).get())).unwrap();
    planes.turn_off().unwrap();
    assert!(cache.get(&1, false).is_none());
    let second = cache.get_or_import(1, &buffer, false).unwrap();
    assert!(second.is_open() && second != first);
    assert_eq!(cache.get(&1, false).unwrap().unwrap(), second);
    assert_eq!(device.uses(Call::AddFramebuffer), 2);
    drop((first, second, cache));
    assert!(device.is_clean());
}

#[test]
fn framebuffers_are_made_in_the_name_of_whom_they_are_for() {
    let (_, table) = table();
    let mut cache = FramebufferCache::new(table.clone());
    let fd = memory(1024);
    let buffer = argb(&fd, DrmModifier::Linear);
    let made =
        cache.get_or_make(1, false, |table| Framebuffer::new(&table.owned_by("client 7"), &buffer, false));
    let ledger = cache.table().ledger();
    assert_eq!(ledger.framebuffers[0].owner.as_str(), "client 7");
    assert_eq!(ledger.framebuffers[0].name, made.unwrap().name());
    assert_eq!(ledger.handles[0].holders[0].owner.as_str(), "client 7");
}
