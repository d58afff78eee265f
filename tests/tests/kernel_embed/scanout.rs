//! What `DrmCompositor` does with client buffers through drm-prime's exporter.
//!
//! Owns the cases and their oracle: the kernel's planes (debugfs) and the CRC of the display, which must be that of the
//! expected picture and follow the client's memory without a commit.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use drm_fourcc::{DrmFourcc, DrmModifier};
use drm_prime::smithay::{PrimeAllocator, PrimeExporter, Refusal};
use drm_prime::{Fault, FramebufferError, TableStats};
use primeway_tests::buffer::{Allocator, ClientBuffer, Placement};
use primeway_tests::crc::{Layer, Scene};
use primeway_tests::debugfs::{DebugDevice, FramebufferState, dmabufs};
use primeway_tests::format::Format;
use primeway_tests::stage::noise;
use rustix::io::Errno;
use smithay::backend::renderer::element::RenderElementPresentationState::{Rendering, ZeroCopy};

use super::output::{BACKGROUND, Buffers, Screen, master, prime};

pub const SIZE: (u32, u32) = (320, 240);
pub const PLACE: (i32, i32) = (96, 64);

type PrimeScreen = Screen<PrimeAllocator, PrimeExporter>;

pub fn prime_screen() -> Result<(PrimeScreen, PrimeExporter)> {
    let (master, node) = master()?;
    let (exporter, allocator) = prime(&master, &node)?;
    Ok((Screen::light(&master, allocator, exporter.clone())?, exporter))
}

/// Memory of a client with noise in it.
pub fn client_memory(allocator: Allocator, format: &str, seed: u32) -> Result<ClientBuffer> {
    let mut memory = ClientBuffer::allocate(allocator, Format::named(format)?, SIZE.0, SIZE.1)?;
    memory.draw(&noise(seed, SIZE.0, SIZE.1), false)?;
    Ok(memory)
}

/// The CRC of noise at a place over the background.
pub fn expected_crc(display: (u32, u32), memory: &ClientBuffer, seed: u32, (x, y): (i32, i32)) -> u32 {
    let picture = noise(seed, memory.width, memory.height);
    let layers = vec![Layer { picture, format: memory.format, x, y }];
    Scene { width: display.0, height: display.1, background: BACKGROUND, layers }.crc()
}

/// The framebuffer on the display that has the size of a client's buffer, and the plane's place, if there is one.
pub fn on_a_plane(size: (u32, u32)) -> Result<Option<(FramebufferState, [i32; 4])>> {
    let planes = DebugDevice::of_driver("vkms")?.planes()?;
    let lit = planes.into_iter().filter(|plane| plane.crtc.is_some());
    let mut shown = lit.filter_map(|plane| Some((plane.framebuffer?, plane.position)));
    Ok(shown.find(|(framebuffer, _)| framebuffer.size == [size.0, size.1]))
}

/// The CRC of the display. Nobody composes by himself here, so a few frames begun after the call suffice.
pub fn crc() -> Result<u32> {
    let device = DebugDevice::of_driver("vkms")?;
    let planes = device.planes()?;
    let crtc = planes.iter().find_map(|plane| plane.crtc.as_ref()).context("no CRTC is on")?;
    device.crc(crtc)?.stable(2, Duration::from_secs(5))
}

/// The display reads this very memory: it shows its picture, and the next one without a commit.
pub fn follows_the_memory(display: (u32, u32), memory: &mut ClientBuffer, place: (i32, i32)) -> Result<()> {
    for seed in [1, 2] {
        memory.draw(&noise(seed, memory.width, memory.height), false)?;
        let (wanted, shown) = (expected_crc(display, memory, seed, place), crc()?);
        ensure!(wanted == shown, "noise {seed}: the CRC must be {wanted:08x}, and is {shown:08x}");
    }
    Ok(())
}

fn is_scanned_out(allocator: Allocator, format: &str, modifier: DrmModifier) -> Result<()> {
    let (mut screen, exporter) = prime_screen()?;
    let mut memory = client_memory(allocator, format, 1)?;
    let buffers = Buffers::new()?;
    let buffer = buffers.add_as(&memory, memory.format.fourcc, modifier)?;
    let windows = [screen.element(&buffer, PLACE)?];
    let states = screen.show(&windows)?;
    ensure!(states == [ZeroCopy], "{states:?}, refused: {:?}", exporter.refusals());
    let (framebuffer, position) = on_a_plane(SIZE)?.context("the kernel has it on no plane")?;
    ensure!(framebuffer.format == format, "{framebuffer:?}");
    ensure!(framebuffer.imported, "memory of {allocator:?} is not imported: {framebuffer:?}");
    ensure!(position[2..] == [PLACE.0, PLACE.1], "{position:?}");
    follows_the_memory(screen.size, &mut memory, PLACE)?;
    ensure!(windows[0].drawn.get() == 0, "it was composited as well");
    Ok(())
}

pub fn client_buffers_are_scanned_out() -> Result<()> {
    for allocator in [Allocator::Vgem, Allocator::Udmabuf, Allocator::Heap] {
        is_scanned_out(allocator, "XR24", DrmModifier::Linear).with_context(|| format!("{allocator:?}"))?;
    }
    // As Mesa's software drivers send it; vgem cannot have tiled it.
    is_scanned_out(Allocator::Vgem, "XR24", DrmModifier::Invalid).context("without a modifier")
}

/// `PixmanRenderer` reads no NV12, so smithay's own surface elements drop such a buffer; the exporter takes it.
pub fn nv12_is_scanned_out() -> Result<()> {
    is_scanned_out(Allocator::Vgem, "NV12", DrmModifier::Linear)?;
    is_scanned_out(Allocator::Udmabuf, "NV12", DrmModifier::Linear)
}

/// An opaque AR24 buffer as large as the display goes where the swapchain's XR24 would: as XR24.
pub fn a_full_screen_buffer_takes_the_primary_plane() -> Result<()> {
    let (mut screen, exporter) = prime_screen()?;
    let (width, height) = screen.size;
    let (argb, xrgb) = (Format::named("AR24")?, Format::named("XR24")?);
    let mut memory = ClientBuffer::allocate(Allocator::Vgem, argb, width, height)?;
    // Stored as XR24 noise, so that its alpha bits are any.
    memory.format = xrgb;
    memory.draw(&noise(1, width, height), false)?;
    let buffers = Buffers::new()?;
    let mut window =
        screen.element(&buffers.add_as(&memory, DrmFourcc::Argb8888, DrmModifier::Linear)?, (0, 0))?;
    window.opaque = true;
    let states = screen.show(&[window])?;
    ensure!(states == [ZeroCopy], "{states:?}, refused: {:?}", exporter.refusals());
    let (framebuffer, _) = on_a_plane(screen.size)?.context("nothing is shown")?;
    ensure!(framebuffer.format == "XR24" && framebuffer.imported, "{framebuffer:?}");
    follows_the_memory(screen.size, &mut memory, (0, 0))
}

pub fn refusals_reach_the_embedder() -> Result<()> {
    let (mut screen, exporter) = prime_screen()?;
    let memory = client_memory(Allocator::Vgem, "XR24", 1)?;
    let placed = Placement { separate: false, offset: 8192 };
    let late = ClientBuffer::allocate_placed(Allocator::Vgem, memory.format, SIZE, placed)?;
    let mut lying = ClientBuffer::allocate(Allocator::Vgem, memory.format, SIZE.0, SIZE.1)?;
    lying.height *= 2;
    let buffers = Buffers::new()?;
    // vkms has no XR30, and adds the offset of the first plane twice.
    let unknown = buffers.add_as(&memory, DrmFourcc::Xrgb2101010, DrmModifier::Linear)?;
    let (late, lying) = (buffers.add(&late)?, buffers.add(&lying)?);
    let fine = buffers.add(&memory)?;
    let mut windows = Vec::new();
    for (index, buffer) in (0..).zip([&unknown, &late, &fine]) {
        windows.push(screen.element(buffer, (index % 2 * 320, index / 2 * 240))?);
    }
    let states = screen.show(&windows)?;
    ensure!(matches!(states[..], [Rendering { .. }, Rendering { .. }, ZeroCopy]), "{states:?}");
    ensure!(exporter.refusal(&fine).is_none());

    let refusal = exporter.refusal(&unknown).context("no reason for XR30")?;
    ensure!(refusal.fault() == Fault::CannotScanOut, "{refusal:?}");
    let Refusal::Framebuffer(error) = &refusal else { bail!("{refusal:?}") };
    let FramebufferError::Refused { format, source, .. } = &**error else { bail!("{error:?}") };
    ensure!(*format == DrmFourcc::Xrgb2101010, "{error:?}");
    ensure!(source.raw_os_error() == Some(Errno::INVAL.raw_os_error()), "{source:?}");

    let refusal = exporter.refusal(&late).context("no reason for the offset")?;
    ensure!(
        matches!(&refusal, Refusal::Framebuffer(error) if matches!(**error, FramebufferError::Quirk { .. }))
    );

    // Smithay's own protocol code would let this one through; a renderer must not read it, so it is only offered here.
    let outcome = screen.export(&exporter, &lying);
    let Err(refusal) = outcome else { bail!("a buffer beyond its memory was taken") };
    ensure!(refusal.fault() == Fault::Client, "{refusal:?}");
    ensure!(exporter.refusals().len() >= 3, "{:?}", exporter.refusals());
    Ok(())
}

/// Sixteen buffers come, are shown, and go; then the kernel has what it had before.
pub fn nothing_is_left_behind() -> Result<()> {
    let (mut screen, exporter) = prime_screen()?;
    let count = || -> Result<(usize, usize)> {
        Ok((dmabufs()?, DebugDevice::of_driver("vkms")?.framebuffers()?.len()))
    };
    // Four buffers of the swapchain come one after the other.
    for _ in 0..4 {
        let memory = client_memory(Allocator::Vgem, "XR24", 1)?;
        let buffers = Buffers::new()?;
        let window = screen.element(&buffers.add(&memory)?, PLACE)?;
        screen.show(&[window])?;
        screen.show(&[])?;
    }
    screen.show(&[])?;
    let (before, stats) = (count()?, exporter.table().stats());
    for round in 0..16 {
        let memory = client_memory(Allocator::Vgem, if round % 2 == 0 { "XR24" } else { "NV12" }, round)?;
        let buffers = Buffers::new()?;
        let window = screen.element(&buffers.add(&memory)?, PLACE)?;
        ensure!(screen.show(&[window])? == [ZeroCopy]);
        ensure!(exporter.table().stats().handles > stats.handles, "not in the table");
        screen.show(&[])?;
    }
    screen.show(&[])?;
    let now = exporter.table().stats();
    ensure!(now.handles == stats.handles && now.references == stats.references, "{stats:?}, then {now:?}");
    ensure!(now.violations == 0, "{now:?}");
    ensure!(count()? == before, "dma-bufs and framebuffers: {before:?}, then {:?}", count()?);
    drop(screen);
    let TableStats { handles, references, .. } = exporter.table().stats();
    ensure!((handles, references) == (0, 0), "{:?}", exporter.table().entries());
    Ok(())
}
