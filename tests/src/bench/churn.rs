//! wl_buffers that are created and destroyed, all of one buffer, by a client that costs little itself: it writes whole batches,
//! where a client library makes two system calls more for each file that it sends. What is measured is the compositor.
//!
//! Owns the cycle. The requests are those of a common client: `create_params`, `add`, `create_immed`, `destroy` of both.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::buffer::ClientBuffer;
use crate::client::raw::{Arg, FILES_AT_ONCE, Raw, message};

/// A round trip per so many created buffers, so that neither side's socket buffer fills.
pub const BATCH: u64 = 32;

/// A connection that creates and destroys.
#[derive(Debug)]
pub struct Churn {
    raw: Raw,
    dmabuf: u32,
    buffer: ClientBuffer,
    modifier: u64,
}

impl Churn {
    /// Connects. Buffers are named with `modifier`.
    ///
    /// # Errors
    ///
    /// When there is no linux-dmabuf.
    pub fn connect(socket: &Path, buffer: ClientBuffer, modifier: u64) -> Result<Churn> {
        let socket = UnixStream::connect(socket).context("cannot connect")?;
        let mut raw = Raw::over(socket)?;
        let dmabuf = raw.bind("zwp_linux_dmabuf_v1", 3)?;
        Ok(Churn { raw, dmabuf, buffer, modifier })
    }

    /// Creates and destroys `count` buffers; says how long it took until all was answered.
    ///
    /// # Errors
    ///
    /// When the compositor ends the connection.
    pub fn run(&mut self, count: u64) -> Result<Duration> {
        let start = Instant::now();
        let mut left = count;
        while left > 0 {
            let batch = left.min(BATCH);
            left -= batch;
            self.batch(batch)?;
        }
        Ok(start.elapsed())
    }

    fn batch(&mut self, count: u64) -> Result<()> {
        let Churn { raw, dmabuf, buffer, modifier } = self;
        let (mut bytes, mut files): (Vec<u8>, Vec<BorrowedFd<'_>>) = (Vec::new(), Vec::new());
        let (width, height) = (Arg::U(buffer.width), Arg::U(buffer.height));
        let format = Arg::U(buffer.format.fourcc as u32);
        let modifier = [Arg::U((*modifier >> 32) as u32), Arg::U(*modifier as u32)];
        for _ in 0..count {
            let (params, wl_buffer) = (raw.id(), raw.id());
            bytes.extend(message(*dmabuf, 1, &[Arg::U(params)]));
            if files.len() + buffer.layout.len() > FILES_AT_ONCE {
                raw.send(&bytes, &files)?;
                bytes.clear();
                files.clear();
            }
            for (index, plane) in buffer.layout.iter().enumerate() {
                files.push(buffer.plane_fd(index));
                let place = [Arg::U(index as u32), Arg::U(plane.offset), Arg::U(plane.stride)];
                bytes.extend(message(params, 1, &[&place[..], &modifier].concat()));
            }
            let size = [Arg::U(wl_buffer), width.clone(), height.clone(), format.clone(), Arg::U(0)];
            bytes.extend(message(params, 3, &size));
            bytes.extend(message(params, 0, &[]));
            bytes.extend(message(wl_buffer, 0, &[]));
        }
        raw.send(&bytes, &files)?;
        match raw.roundtrip()? {
            Ok(_) => Ok(()),
            Err(end) => bail!("the connection ended: {end:?}"),
        }
    }
}
