//! Each condition of `framebuffer_check` alone: from outside, a later refusal often hides it.

use super::*;
use crate::model::{Driver, Machine, Node, Profile};

const NV12: u32 = u32::from_le_bytes(*b"NV12");

/// A good request in a format, of one handle: the pitches say how many planes there are.
fn request(fourcc: &[u8; 4], width: u32, height: u32, pitches: &[u32]) -> Fb2Request {
    let mut request =
        Fb2Request { width, height, pixel_format: u32::from_le_bytes(*fourcc), ..Fb2Request::default() };
    for (i, pitch) in pitches.iter().enumerate() {
        (request.handles[i], request.pitches[i]) = (1, *pitch);
    }
    request
}

fn checked(request: &Fb2Request) -> Result<(), Errno> {
    check(&formats::find(request.pixel_format).unwrap(), request)
}

fn with(good: Fb2Request, change: impl FnOnce(&mut Fb2Request)) -> Result<(), Errno> {
    assert_eq!(checked(&good), Ok(()));
    let mut request = good;
    change(&mut request);
    checked(&request)
}

#[test]
fn sizes_and_handles() {
    let good = request(b"XR24", 8, 8, &[32]);
    assert_eq!(with(good, |r| r.width = 0), Err(Errno::INVAL));
    assert_eq!(with(good, |r| r.height = 0), Err(Errno::INVAL));
    assert_eq!(with(good, |r| r.handles[0] = 0), Err(Errno::INVAL));
    assert_eq!(with(good, |r| r.pitches[0] = 31), Err(Errno::INVAL));
}

#[test]
fn ranges_end_at_32_bits() {
    let wide = request(b"XR24", u32::MAX, 1, &[0]);
    assert_eq!(checked(&wide), Err(Errno::RANGE), "a row of 16 GiB");
    let most = request(b"R8  ", u32::MAX, 1, &[0]);
    assert_eq!(checked(&most), Err(Errno::INVAL), "a row that can be, and is longer than its pitch");
    let end = request(b"R8  ", 4, 1, &[u32::MAX]);
    assert_eq!(with(end, |r| r.offsets[0] = 1), Err(Errno::RANGE));
}

#[test]
fn modifiers_are_announced_and_the_same_for_all_planes() {
    let good = request(b"NV12", 64, 64, &[64, 64]);
    assert_eq!(with(good, |r| r.modifiers[0] = 5), Err(Errno::INVAL), "not announced");
    let announced = Fb2Request { flags: MODIFIERS, modifiers: [5, 5, 0, 0], ..good };
    assert_eq!(with(announced, |r| r.modifiers[1] = 6), Err(Errno::INVAL), "mixed");
    assert_eq!(with(announced, |r| r.modifiers[2] = 5), Err(Errno::INVAL), "of no plane");
    let garbage =
        Fb2Request { handles: [1, 1, 9, 9], pitches: [64, 64, 9, 9], offsets: [0, 0, 9, 9], ..good };
    assert_eq!(with(garbage, |r| r.flags = MODIFIERS), Err(Errno::INVAL));
}

#[test]
fn a_format_without_a_linear_layout_needs_a_modifier() {
    let good = Fb2Request { flags: MODIFIERS, modifiers: [5, 0, 0, 0], ..request(b"VU30", 64, 64, &[0]) };
    assert_eq!(with(good, |r| r.modifiers[0] = 0), Err(Errno::INVAL));
}

#[test]
fn samsungs_tiles_are_whole() {
    let good = Fb2Request {
        flags: MODIFIERS,
        modifiers: [SAMSUNG_64_32_TILE, SAMSUNG_64_32_TILE, 0, 0],
        ..request(b"NV12", 256, 64, &[256, 256])
    };
    assert_eq!(good.pixel_format, NV12);
    assert_eq!(with(good, |r| r.pixel_format = u32::from_le_bytes(*b"NV21")), Err(Errno::INVAL));
    assert_eq!(with(good, |r| r.width = 200), Err(Errno::INVAL));
    assert_eq!(with(good, |r| r.height = 48), Err(Errno::INVAL));
    assert_eq!(with(good, |r| r.pitches[1] = 320), Err(Errno::INVAL));
}

#[test]
fn the_least_and_the_most_of_vkms() {
    let machine = Machine::new(Profile::MODERN);
    let vkms = machine.add_device(Driver::vkms());
    let file = vkms.open(Node::Primary).unwrap();
    for (width, height) in [(10, 10), (8192, 10), (10, 8192)] {
        let dumb = file.create_dumb(width, height, 32).unwrap();
        let mut request = request(b"XR24", width, height, &[dumb.pitch]);
        request.handles[0] = dumb.handle;
        assert!(file.addfb2(&request).is_ok(), "{width}x{height}");
    }
}

#[test]
fn c12_an_object_without_handles_gets_none_from_its_framebuffer() {
    let machine = Machine::new(Profile::MODERN);
    let vkms = machine.add_device(Driver::vkms());
    let file = vkms.open(Node::Primary).unwrap();
    let handle = file.create_dumb(64, 64, 32).unwrap().handle;
    let fd = file.handle_to_fd(handle, 0).unwrap();
    let key = machine.state().dmabufs.get(fd.key()).unwrap().object.unwrap();
    let taken = || machine.call(|call| take_handle(call, vkms.key, key));
    assert!(taken());
    machine.call(|call| handles::put_handle(call, key));
    file.gem_close(handle).unwrap();
    assert!(!taken(), "only the dma-buf has it");
}
