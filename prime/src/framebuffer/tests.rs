//! Tests of framebuffers: what is checked first, what is sent, what is given back.

use std::{os::fd::AsFd, sync::Arc};

use rustix::io::Errno;

use super::*;
use crate::{
    device::faults::Call,
    testbed::{argb, device, device_with, memory, plane, table},
};

#[test]
fn planes_of_one_buffer_share_a_handle_that_is_closed_once() {
    let (device, table) = table();
    let fd = memory(4096);
    let planes = [plane(&fd, 0, 32), plane(&fd, 1024, 32)];
    let buffer = Dmabuf::new(32, 32, DrmFourcc::Nv12, DrmModifier::Linear, &planes).unwrap();
    let framebuffer = Framebuffer::new(&table, &buffer, false).unwrap();
    assert_eq!((table.stats().handles, table.stats().references), (1, 2));
    let sent = device.last_request().unwrap();
    let handle = framebuffer.handles()[0].raw();
    assert_eq!(sent.planes[0], Some((handle, Layout { offset: 0, stride: 32 })));
    assert_eq!(sent.planes[1], Some((handle, Layout { offset: 1024, stride: 32 })));
    assert_eq!(sent.planes[2], None);
    drop(framebuffer);
    assert!(device.is_clean());
    assert_eq!(
        (
            device.uses(Call::GemClose),
            device.uses(Call::CloseFramebuffer),
            device.uses(Call::RemoveFramebuffer)
        ),
        (1, 1, 0)
    );
}

#[test]
fn planes_in_two_buffers_have_two_handles() {
    let (device, table) = table();
    let (luma, chroma) = (memory(1024), memory(512));
    let planes = [plane(&luma, 0, 32), plane(&chroma, 0, 32)];
    let buffer = Dmabuf::new(32, 32, DrmFourcc::Nv12, DrmModifier::Linear, &planes).unwrap();
    let framebuffer = Framebuffer::new(&table, &buffer, false).unwrap();
    assert_eq!(table.stats().handles, 2);
    drop(framebuffer);
    assert!(device.is_clean());
}

#[test]
fn a_lie_about_the_size_never_reaches_the_device() {
    let (device, table) = table();
    let fd = memory(1023);
    let error = Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), false).unwrap_err();
    assert!(
        matches!(
            error,
            FramebufferError::Size(SizeError::OutOfBounds { plane: 0, needed: 1024, actual: 1023, .. })
        ),
        "{error:?}"
    );
    assert_eq!(error.fault(), Fault::Client);
    assert_eq!((device.uses(Call::FdToHandle), device.uses(Call::AddFramebuffer)), (0, 0));
}

#[test]
fn opaque_takes_the_twin_without_alpha() {
    let (device, table) = table();
    let fd = memory(1024);
    let plain = Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), false).unwrap();
    let opaque = Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), true).unwrap();
    assert_eq!((plain.format(), opaque.format()), (DrmFourcc::Argb8888, DrmFourcc::Xrgb8888));
    assert_eq!(device.last_request().unwrap().format, DrmFourcc::Xrgb8888);
    assert_eq!((table.stats().handles, table.stats().references), (1, 2));
    let planes = [plane(&fd, 0, 32), plane(&fd, 512, 16)];
    let split = Dmabuf::new(16, 16, DrmFourcc::Rgb565_a8, DrmModifier::Linear, &planes).unwrap();
    let error = Framebuffer::new(&table, &split, true).unwrap_err();
    assert!(matches!(error, FramebufferError::NoOpaqueSubstitute { .. }), "{error:?}");
    assert_eq!(error.fault(), Fault::CannotScanOut);
}

#[test]
fn modifiers_are_sent_only_where_they_are_taken() {
    let tiled = DrmModifier::I915_x_tiled;
    for (takes, modifier, sent) in [
        (true, DrmModifier::Linear, Some(DrmModifier::Linear)),
        (true, DrmModifier::Invalid, None),
        (true, tiled, Some(tiled)),
        (false, DrmModifier::Linear, None),
        (false, DrmModifier::Invalid, None),
    ] {
        let device = Arc::new(device_with(|driver| driver.modifiers = takes));
        let table = HandleTable::new(device.clone());
        let fd = memory(1024);
        let framebuffer = Framebuffer::new(&table, &argb(&fd, modifier), false);
        assert_eq!(device.last_request().unwrap().modifier, sent, "{takes} {modifier:?}");
        match framebuffer {
            Ok(framebuffer) => assert_eq!(framebuffer.modifier(), modifier),
            // The model's memory is linear.
            Err(FramebufferError::Refused { modifier: refused, .. }) => {
                assert_eq!((refused, sent), (u64::from(tiled), Some(tiled)));
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(device.is_clean());
    }
    let device = Arc::new(device_with(|driver| (driver.modifiers, driver.rdev) = (false, 1)));
    let table = HandleTable::new(device.clone());
    let fd = memory(1024);
    let error = Framebuffer::new(&table, &argb(&fd, tiled), false).expect_err("no modifiers");
    assert!(matches!(error, FramebufferError::ModifiersUnsupported { device: 1, .. }), "{error:?}");
    assert_eq!(device.uses(Call::FdToHandle), 0);
}

#[test]
fn every_failure_gives_back_what_it_took() {
    let (device, table) = table();
    let (luma, chroma) = (memory(1024), memory(512));
    let planes = [plane(&luma, 0, 32), plane(&chroma, 0, 32)];
    let buffer = Dmabuf::new(32, 32, DrmFourcc::Nv12, DrmModifier::Linear, &planes).unwrap();
    for (errno, fault) in [(Errno::INVAL, Fault::CannotScanOut), (Errno::NOMEM, Fault::System)] {
        device.fail(Call::AddFramebuffer, 1, errno);
        let error = Framebuffer::new(&table, &buffer, false).unwrap_err();
        assert_eq!(error.fault(), fault, "{error:?}");
        assert!(device.is_clean());
    }
    let _held = table.import(luma.as_fd()).unwrap();
    device.fail(Call::FdToHandle, 1, Errno::NODEV);
    let error = Framebuffer::new(&table, &buffer, false).unwrap_err();
    assert!(
        matches!(error, FramebufferError::Import { plane: 1, source: ImportError::NotImportable { .. } }),
        "{error:?}"
    );
    assert_eq!((table.stats().handles, table.stats().references), (1, 1));
}

#[test]
fn remove_turns_planes_off_and_drop_does_not() {
    let (device, table) = table();
    let fd = memory(1024);
    Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), false).unwrap().remove().unwrap();
    assert_eq!((device.uses(Call::RemoveFramebuffer), device.uses(Call::CloseFramebuffer)), (1, 0));
    assert!(device.is_clean());
    let kept = Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), false).unwrap();
    device.fail(Call::RemoveFramebuffer, 1, Errno::NODEV);
    kept.remove().unwrap_err();
    assert_eq!((device.uses(Call::RemoveFramebuffer), device.uses(Call::CloseFramebuffer)), (2, 1));
    assert!(device.is_clean());
}

#[test]
fn dumb_buffers_become_framebuffers_within_their_size() {
    let (device, table) = table();
    let dumb = table.create_dumb(32, 32, 32).unwrap();
    let framebuffer = Framebuffer::for_dumb(&table, &dumb, DrmFourcc::Xrgb8888).unwrap();
    assert_eq!((framebuffer.width(), framebuffer.height()), (32, 32));
    assert!(framebuffer.origin().is_owned());
    let two = [Layout { offset: 0, stride: 64 }, Layout { offset: 2048, stride: 64 }];
    let nv12 = Framebuffer::for_dumb_planes(&table, &dumb, DrmFourcc::Nv12, 64, 32, &two).unwrap();
    assert_eq!((nv12.handles().len(), table.stats().references), (1, 3));
    let error = Framebuffer::for_dumb_planes(&table, &dumb, DrmFourcc::Nv12, 64, 65, &two).unwrap_err();
    let expected =
        |e: &_| matches!(e, FramebufferError::OutsideDumb { plane: 0, needed: 4160, actual: 4096 });
    assert!(expected(&error), "{error:?}");
    let error = Framebuffer::for_dumb(&table, &dumb, DrmFourcc::Abgr16161616f).unwrap_err();
    assert!(matches!(error, FramebufferError::Layout(LayoutError::Stride { least: 256, .. })), "{error:?}");
    let (_, other) = self::table();
    let error = Framebuffer::for_dumb(&other, &dumb, DrmFourcc::Xrgb8888).unwrap_err();
    assert!(matches!(error, FramebufferError::OtherDevice { .. }), "{error:?}");
    // The framebuffers keep the handle when the buffer goes.
    drop(dumb);
    assert_eq!(device.uses(Call::GemClose), 0);
    drop((framebuffer, nv12));
    assert!(device.is_clean());
}

/// A handle that the table believes to have was closed by somebody else; the device says so when it is used.
#[test]
fn a_lost_handle_is_noticed_and_imported_anew() {
    let (device, table) = table();
    let fd = memory(1024);
    let lost = table.import(fd.as_fd()).unwrap();
    device.inner().gem_close(lost.raw().get()).unwrap();
    let framebuffer = Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), false).unwrap();
    assert_eq!((device.uses(Call::AddFramebuffer), device.uses(Call::FdToHandle)), (2, 2));
    assert_eq!(device.named(&framebuffer.handles()[0]), Some(crate::DmabufId::of(fd.as_fd()).unwrap()));
    drop((framebuffer, lost));
    assert!(device.is_clean());
}

/// virtio-gpu says `ENOENT` of formats that it does not take: asked twice, and then refused.
#[test]
fn an_unknown_object_that_is_none_of_the_handles_is_a_refusal() {
    let (device, table) = table();
    let fd = memory(1024);
    for errno in [Errno::NOENT, Errno::NOENT, Errno::INVAL] {
        device.fail(Call::AddFramebuffer, 1, errno);
    }
    let refused = |uses: u64| {
        let error = Framebuffer::new(&table, &argb(&fd, DrmModifier::Linear), false).unwrap_err();
        assert!(matches!(error, FramebufferError::Refused { .. }), "{error:?}");
        assert_eq!(device.uses(Call::AddFramebuffer), uses);
    };
    refused(2);
    refused(3);
    assert!(device.is_clean());
    assert_eq!(table.stats().violations, 0);
}

#[test]
fn the_ledger_lists_framebuffers_with_owner_and_age() {
    let told = crate::ToldClock::default();
    let device = Arc::new(device(0xe200));
    let table = HandleTable::with_clock(device.clone(), crate::Clock::from(&told));
    let fd = memory(1024);
    let at = |seconds| told.tell(std::time::Duration::from_secs(seconds));
    at(10);
    let first = Framebuffer::new(&table.owned_by("client 7"), &argb(&fd, DrmModifier::Linear), true).unwrap();
    at(12);
    let second = Framebuffer::new(&table, &argb(&fd, DrmModifier::Invalid), false).unwrap();
    at(15);
    let listed = table.ledger().framebuffers;
    let entry = |framebuffer: &Framebuffer, owner: crate::Owner, age| FramebufferEntry {
        name: framebuffer.name(),
        owner,
        age: std::time::Duration::from_secs(age),
        width: 16,
        height: 16,
        format: framebuffer.format(),
        modifier: framebuffer.modifier(),
        unclosed: false,
    };
    assert_eq!(listed, [entry(&first, "client 7".into(), 5), entry(&second, crate::Owner::default(), 3)]);
    assert_eq!((listed[0].format, listed[1].modifier), (DrmFourcc::Xrgb8888, DrmModifier::Invalid));
    drop(first);
    assert_eq!(table.ledger().framebuffers.len(), 1);
    second.remove().unwrap();
    assert_eq!((table.ledger().framebuffers.len(), table.stats().framebuffers), (0, 0));
    assert!(device.is_clean());
}

#[test]
fn what_nobody_sees_holds_several_buffers() {
    let (device, table) = table();
    let handles: Vec<GemHandle> = [4096, 8192].map(|size| table.import(memory(size).as_fd()).unwrap()).into();
    let numbers: Vec<_> = handles.iter().map(GemHandle::raw).collect();
    let unseen =
        Framebuffer::unseen(&table.owned_by("somebody"), handles.clone(), DrmFourcc::Yuv444, 16).unwrap();
    assert_eq!((unseen.width(), unseen.height(), unseen.format()), (16, 16, DrmFourcc::Yuv444));
    assert_eq!(unseen.handles().iter().map(GemHandle::raw).collect::<Vec<_>>(), numbers);
    assert_eq!(table.ledger().framebuffers[0].owner.to_string(), "somebody");
    drop(handles);
    assert_eq!(table.stats().handles, 2, "it keeps them");
    drop(unseen);
    assert_eq!((table.stats().handles, device.framebuffers()), (0, 0));
}

#[test]
fn what_nobody_sees_has_at_most_a_handle_for_each_buffer_plane() {
    let (_device, table) = table();
    let handle = table.import(memory(4096).as_fd()).unwrap();
    for (count, format) in [(0, DrmFourcc::Yuv444), (4, DrmFourcc::Yuv444), (2, DrmFourcc::Xrgb8888)] {
        let made = Framebuffer::unseen(&table, vec![handle.clone(); count], format, 16);
        let refused = matches!(made, Err(FramebufferError::Layout(LayoutError::PlaneCount { got, .. })) if got == count);
        assert!(refused, "{count} handles for {format}");
    }
    let (_other_device, other) = crate::testbed::table();
    let made = Framebuffer::unseen(&other, vec![handle], DrmFourcc::Xrgb8888, 16);
    assert!(matches!(made, Err(FramebufferError::OtherDevice { .. })));
}
