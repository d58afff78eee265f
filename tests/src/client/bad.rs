//! Buffers that lie, and the error that linux-dmabuf's XML has for each.
//!
//! Owns the list of lies. Each is told on a connection of its own, because a protocol error ends it.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use wayland_protocols::wp::linux_dmabuf::zv1::client::zwp_linux_buffer_params_v1::{
    Error, Flags, ZwpLinuxBufferParamsV1,
};

use super::connection::Wire;
use super::link::WireError;
use crate::buffer::{Allocator, ClientBuffer};
use crate::format::{Format, MODIFIER_LINEAR};

/// A lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BadCase {
    /// Width -1.
    #[value(name = "w=-1")]
    NegativeWidth,
    /// Stride 0.
    #[value(name = "stride0")]
    StrideZero,
    /// An offset just below `u32::MAX`.
    #[value(name = "offset-max")]
    OffsetMax,
    /// NV12 with one plane.
    #[value(name = "plane-count")]
    PlaneCount,
    /// XRGB8888 with two planes.
    #[value(name = "extra-plane")]
    ExtraPlane,
    /// A memfd instead of a dma-buf.
    #[value(name = "memfd")]
    Memfd,
    /// NV12 with planes 0 and 2.
    #[value(name = "nv12-gap")]
    Nv12Gap,
    /// Plane index 4.
    #[value(name = "plane-index")]
    PlaneIndex,
    /// Plane 0 twice.
    #[value(name = "plane-twice")]
    PlaneTwice,
    /// A buffer of 64x64 in memory for 32 rows.
    #[value(name = "too-small")]
    TooSmall,
    /// A format that does not exist.
    #[value(name = "format")]
    UnknownFormat,
}

/// The list, for tests that tell all of them.
pub const ALL: &[BadCase] = &[
    BadCase::NegativeWidth,
    BadCase::StrideZero,
    BadCase::OffsetMax,
    BadCase::PlaneCount,
    BadCase::ExtraPlane,
    BadCase::Memfd,
    BadCase::Nv12Gap,
    BadCase::PlaneIndex,
    BadCase::PlaneTwice,
    BadCase::TooSmall,
    BadCase::UnknownFormat,
];

/// What came of a lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The name of the case on the command line.
    pub case: String,
    /// The XML's error, by name.
    pub expected: String,
    /// Its code.
    pub expected_code: u32,
    /// The error on the wire; `None` when the compositor accepted the buffer or answered `failed`.
    pub got: Option<WireError>,
    /// Whether a `failed` event came.
    pub failed_event: bool,
}

impl Outcome {
    /// Whether the wire had exactly the XML's error. For a file that is no dma-buf, the XML also allows the
    /// non-fatal `failed` event.
    #[must_use]
    pub fn is_right(&self) -> bool {
        match &self.got {
            Some(error) => {
                error.interface == "zwp_linux_buffer_params_v1" && error.code == self.expected_code
            }
            None => self.failed_event && self.expected_code == Error::InvalidWlBuffer as u32,
        }
    }
}

impl BadCase {
    /// The error that the XML has for it.
    #[must_use]
    pub fn expected(self) -> Error {
        match self {
            BadCase::NegativeWidth => Error::InvalidDimensions,
            BadCase::StrideZero | BadCase::OffsetMax | BadCase::TooSmall => Error::OutOfBounds,
            BadCase::PlaneCount | BadCase::ExtraPlane | BadCase::Nv12Gap => Error::Incomplete,
            BadCase::Memfd => Error::InvalidWlBuffer,
            BadCase::PlaneIndex => Error::PlaneIdx,
            BadCase::PlaneTwice => Error::PlaneSet,
            BadCase::UnknownFormat => Error::InvalidFormat,
        }
    }
}

/// A `zwp_linux_buffer_params_v1.add` of a LINEAR plane.
fn add(params: &ZwpLinuxBufferParamsV1, buffer: &ClientBuffer, index: u32, offset: u32, stride: u32) {
    let (hi, lo) = ((MODIFIER_LINEAR >> 32) as u32, MODIFIER_LINEAR as u32);
    params.add(buffer.as_fd(), index, offset, stride, hi, lo);
}

/// Tells one lie and reports what came back.
///
/// # Errors
///
/// When the buffer cannot be allocated or the compositor neither accepts nor refuses within ten seconds.
pub fn tell(case: BadCase, allocator: Allocator, dmabuf_version: u32) -> Result<Outcome> {
    const SIDE: u32 = 64;
    let mut wire = Wire::connect(dmabuf_version)?;
    let yuv = matches!(case, BadCase::PlaneCount | BadCase::Nv12Gap);
    let format = Format::named(if yuv { "NV12" } else { "XR24" })?;
    let allocator = if case == BadCase::Memfd { Allocator::Memfd } else { allocator };
    let rows = if case == BadCase::TooSmall { SIDE / 2 } else { SIDE };
    let buffer = ClientBuffer::allocate(allocator, format, SIDE, rows)?;
    let stride = buffer.layout[0].stride;
    let params = wire.params()?;
    let mut size = (SIDE as i32, SIDE as i32);
    let mut fourcc = format.fourcc as u32;
    match case {
        BadCase::NegativeWidth => size.0 = -1,
        BadCase::UnknownFormat => fourcc = u32::from_le_bytes(*b"ZZ99"),
        _ => {}
    }
    match case {
        BadCase::StrideZero => add(&params, &buffer, 0, 0, 0),
        BadCase::OffsetMax => add(&params, &buffer, 0, u32::MAX - 4095, stride),
        BadCase::PlaneIndex => add(&params, &buffer, 4, 0, stride),
        _ => add(&params, &buffer, 0, 0, stride),
    }
    match case {
        BadCase::ExtraPlane => add(&params, &buffer, 1, 0, stride),
        BadCase::Nv12Gap => add(&params, &buffer, 2, buffer.layout[1].offset, stride),
        BadCase::PlaneTwice => add(&params, &buffer, 0, 0, stride),
        _ => {}
    }
    let wl = wire.create_immed(&params, size, fourcc, Flags::empty());
    // The error ends the connection; a compositor that accepts the lie answers the round trip instead.
    let answered = wire.roundtrip();
    let got = wire.error();
    if answered.is_ok() && got.is_none() {
        wire.wait(Instant::now() + Duration::from_millis(50), |events| events.failed > 0)?;
        wl.destroy();
    } else if got.is_none() {
        bail!("the connection ended without a protocol error: {answered:?}");
    }
    let name = case.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    Ok(Outcome {
        case: name,
        expected: format!("{:?}", case.expected()),
        expected_code: case.expected() as u32,
        got,
        failed_event: wire.events.failed > 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(got: Option<u32>, failed_event: bool, expected: Error) -> Outcome {
        let error =
            |code| WireError { interface: "zwp_linux_buffer_params_v1".into(), code, message: String::new() };
        Outcome {
            case: String::new(),
            expected: String::new(),
            expected_code: expected as u32,
            got: got.map(error),
            failed_event,
        }
    }

    #[test]
    fn only_the_exact_error_is_right() {
        assert!(outcome(Some(5), false, Error::InvalidDimensions).is_right());
        assert!(!outcome(Some(6), false, Error::InvalidDimensions).is_right());
        assert!(!outcome(None, false, Error::InvalidDimensions).is_right());
        assert!(!outcome(None, true, Error::InvalidDimensions).is_right());
        assert!(outcome(None, true, Error::InvalidWlBuffer).is_right());
    }

    #[test]
    fn all_has_every_case() {
        assert_eq!(ALL.len(), BadCase::value_variants().len());
    }
}
