//! The bytes and files between a client and the Wayland library.
//!
//! The library (wayland-backend 0.3) reads a socket until it is empty and keeps every file that comes with it, so a
//! client that writes as fast as it is read would never be left, and files that belong to no request would pile up.
//! Therefore the library gets one end of a socket pair, and this hands it whole messages, a bounded number at a time.
//!
//! Owns: the client's socket, our end of the pair, and what is on its way in either direction. Does not own: when a
//! client has its turn, what it may hold (the parent module).

use std::collections::VecDeque;
use std::io::{Error, IoSlice, IoSliceMut, Result};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, send, sendmsg,
};

/// The longest message that the library takes, and the most that is read at once.
pub(super) const MAX_MESSAGE: usize = 4096;
/// Files in one socket message, of which the library takes no more.
const FILES_AT_ONCE: usize = 28;
/// `SCM_MAX_FD` of the kernel: files in one socket message of a client.
const MAX_FILES: usize = 253;
/// Read at once of what the library sends.
const OUTPUT_AT_ONCE: usize = 32 * 1024;
/// wl_display, whose event 0 is error.
const DISPLAY: u32 = 1;
/// Bytes of a message's header: object, then length and opcode.
const HEADER: usize = 8;

/// Memory to read into, for one relay after the other: to clear that much for each reading would cost more than the reading.
#[derive(Debug)]
pub(super) struct Scratch(Box<[u8]>);

impl Default for Scratch {
    fn default() -> Self {
        Self(vec![0; OUTPUT_AT_ONCE].into())
    }
}

/// What came of reading from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    /// Bytes and files that were there; with the highest number of the files, if there were any.
    Got { bytes: usize, files: usize, highest: Option<i32> },
    /// Nothing for now.
    Nothing,
    /// The client is gone.
    End,
    /// Files were lost because no more can be opened.
    Lost,
}

/// A message that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("a message of {0} bytes, which is not a whole number of words")]
    Length(usize),
    #[error("a message of {0} bytes, {MAX_MESSAGE} are the most")]
    TooLong(usize),
    #[error("wl_registry.bind without a name")]
    NoName,
}

/// The header of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) object: u32,
    pub(super) opcode: u16,
    len: usize,
}

impl Header {
    /// Whether it is `wl_display.sync`.
    pub(super) fn is_sync(self) -> bool {
        (self.object, self.opcode) == (1, 0)
    }

    /// Whether it would be a `wl_registry.bind` whose interface has no name, if its object is a registry. The library
    /// (wayland-backend 0.3) takes that for impossible, and panics.
    pub(super) fn may_be_nameless_bind(self, message: &[u8]) -> bool {
        const NAME: std::ops::Range<usize> = HEADER + 4..HEADER + 8;
        self.opcode == 0 && message.get(NAME) == Some(&[0; 4])
    }

    /// Whether it has the shape of most requests that destroy their object: the first of the interface, without arguments.
    pub(super) fn may_be_destroy(self) -> bool {
        (self.opcode, self.len) == (0, HEADER)
    }

    /// Whether it has the shape of `zwp_linux_buffer_params_v1.create`: four words behind the header.
    pub(super) fn may_be_create(self) -> bool {
        (self.opcode, self.len) == (2, HEADER + 16)
    }

    /// The header at the start of `bytes`, if it is there.
    fn of(bytes: &[u8]) -> Result2<Option<Header>> {
        let Some((object, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
        let Some(word) = rest.first_chunk::<4>() else { return Ok(None) };
        let (object, word) = (u32::from_ne_bytes(*object), u32::from_ne_bytes(*word));
        let len = (word >> 16) as usize;
        if len < HEADER || !len.is_multiple_of(4) {
            return Err(Malformed::Length(len));
        }
        if len > MAX_MESSAGE {
            return Err(Malformed::TooLong(len));
        }
        Ok(Some(Header { object, opcode: word as u16, len }))
    }
}

type Result2<T> = std::result::Result<T, Malformed>;

/// Both directions of one connection.
#[derive(Debug)]
pub(super) struct Relay {
    /// The client's socket.
    client: UnixStream,
    /// The library's other end.
    library: UnixStream,
    input: Vec<u8>,
    input_files: VecDeque<OwnedFd>,
    output: VecDeque<u8>,
    output_files: VecDeque<OwnedFd>,
}

impl Relay {
    /// A relay for a client's socket, with the socket for the library.
    ///
    /// # Errors
    ///
    /// When there is no socket pair to be had.
    pub(super) fn new(client: UnixStream) -> Result<(Self, UnixStream)> {
        let (library, theirs) = UnixStream::pair()?;
        // What one turn of a client can make the library say must fit; the kernel takes what it allows.
        if let Err(err) = rustix::net::sockopt::set_socket_send_buffer_size(&theirs, 1 << 20) {
            tracing::debug!(%err, "socket buffer not enlarged");
        }
        let relay = Self {
            client,
            library,
            input: Vec::new(),
            input_files: VecDeque::new(),
            output: VecDeque::new(),
            output_files: VecDeque::new(),
        };
        Ok((relay, theirs))
    }

    /// The client's socket, to watch.
    pub(super) fn client(&self) -> &UnixStream {
        &self.client
    }

    /// Our end of the library's socket, to watch.
    pub(super) fn library(&self) -> &UnixStream {
        &self.library
    }

    /// Bytes and files that the client has not read.
    pub(super) fn unread(&self) -> (usize, usize) {
        (self.output.len(), self.output_files.len())
    }

    /// The next message, if the whole of it is there.
    pub(super) fn next(&self) -> Result2<Option<Header>> {
        Ok(Header::of(&self.input)?.filter(|header| header.len <= self.input.len()))
    }

    /// Reads what the client has sent, at most as much as fits beside an unfinished message.
    ///
    /// # Errors
    ///
    /// When the socket is broken.
    pub(super) fn receive(&mut self, Scratch(buffer): &mut Scratch) -> Result<Read> {
        let space = MAX_MESSAGE.saturating_sub(self.input.len());
        let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut control);
        let before = self.input_files.len();
        let got = receive(&self.client, &mut buffer[..space], &mut control, &mut self.input_files);
        let (bytes, flags) = match got {
            Ok(got) => got,
            Err(Errno::AGAIN) => return Ok(Read::Nothing),
            Err(Errno::CONNRESET) => return Ok(Read::End),
            Err(err) => return Err(err.into()),
        };
        if flags.contains(ReturnFlags::CTRUNC) {
            return Ok(Read::Lost);
        }
        if bytes == 0 {
            return Ok(Read::End);
        }
        self.input.extend_from_slice(&buffer[..bytes]);
        let highest = self.input_files.iter().skip(before).map(std::os::fd::AsRawFd::as_raw_fd).max();
        Ok(Read::Got { bytes, files: self.input_files.len() - before, highest })
    }

    /// Hands the library whole messages, at most `most` of them, and the files that came so far. `each` sees the
    /// headers with the messages and says whether to go on with that message, or to stop before it, or that it cannot be one.
    /// Returns the number of messages.
    ///
    /// # Errors
    ///
    /// When the next message cannot be one, after those before it were handed on; or when the library's socket is
    /// broken.
    pub(super) fn hand_on(
        &mut self,
        most: usize,
        mut each: impl FnMut(Header, &[u8]) -> Result2<bool>,
    ) -> Result<Result2<usize>> {
        let (mut messages, mut end) = (0, 0);
        let mut outcome = Ok(());
        while messages < most {
            match Header::of(&self.input[end..]) {
                Ok(Some(header)) if header.len <= self.input.len() - end => {
                    match each(header, &self.input[end..end + header.len]) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(err) => {
                            outcome = Err(err);
                            break;
                        }
                    }
                    end += header.len;
                    messages += 1;
                }
                Ok(_) => break,
                Err(err) => {
                    outcome = Err(err);
                    break;
                }
            }
        }
        let mut start = 0;
        while start < end {
            // Files beyond what the library takes at once go ahead with a byte each time.
            let files = self.input_files.len().min(FILES_AT_ONCE);
            let upto = if self.input_files.len() > FILES_AT_ONCE { start + 1 } else { end };
            start += self.send_to_library(start, upto, files)?;
            drm_prime::close_together(self.input_files.drain(..files));
        }
        self.input.drain(..end);
        match outcome {
            Err(err) if messages == 0 => Ok(Err(err)),
            _ => Ok(Ok(messages)),
        }
    }

    fn send_to_library(&self, start: usize, end: usize, files: usize) -> Result<usize> {
        let files: Vec<BorrowedFd<'_>> = self.input_files.iter().take(files).map(|f| f.as_fd()).collect();
        Ok(transmit(&self.library, &self.input[start..end], &files)?)
    }

    /// Takes what the library has to say to the client and sends as much of it as the client's socket takes.
    ///
    /// # Errors
    ///
    /// When the client cannot be reached any more, or the library has closed its end: with the kind `UnexpectedEof`.
    pub(super) fn pump(&mut self, Scratch(buffer): &mut Scratch) -> Result<()> {
        loop {
            let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_ONCE))];
            let mut control = RecvAncillaryBuffer::new(&mut control);
            let before = self.output_files.len();
            match receive(&self.library, buffer, &mut control, &mut self.output_files) {
                Ok((0, _)) => {
                    self.send()?;
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                Ok((bytes, _)) => {
                    let whole = self.output_files.len() == before;
                    self.say(&buffer[..bytes])?;
                    // A shorter answer is all there was, unless files cut it off.
                    if bytes < buffer.len() && whole {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN) => return self.send(),
                Err(err) => return Err(err.into()),
            }
        }
    }

    /// Tells the client of an error of wl_display, after everything that the library has to say.
    ///
    /// # Errors
    ///
    /// When the client cannot be reached any more.
    pub(super) fn say_error(&mut self, code: u32, text: &str, scratch: &mut Scratch) -> Result<()> {
        match self.pump(scratch) {
            Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => {}
            other => other?,
        }
        let padded = (text.len() + 1).next_multiple_of(4);
        let len = (HEADER + 12 + padded) as u32;
        let words = [DISPLAY, len << 16, DISPLAY, code, text.len() as u32 + 1];
        let mut message = words.map(u32::to_ne_bytes).concat();
        message.extend(text.as_bytes());
        message.resize(len as usize, 0);
        self.say(&message)
    }

    /// Sends new output, without a detour if nothing waits before it.
    fn say(&mut self, bytes: &[u8]) -> Result<()> {
        let sent = if self.output.is_empty() && self.output_files.is_empty() {
            match transmit(&self.client, bytes, &[]) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => 0,
                Err(err) => return Err(err.into()),
            }
        } else {
            0
        };
        if sent == bytes.len() {
            return Ok(());
        }
        self.output.extend(&bytes[sent..]);
        self.send()
    }

    /// Sends what waits for the client.
    ///
    /// # Errors
    ///
    /// When the client cannot be reached any more.
    pub(super) fn send(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            let files: Vec<BorrowedFd<'_>> =
                self.output_files.iter().take(FILES_AT_ONCE).map(|f| f.as_fd()).collect();
            let bytes = self.output.as_slices().0;
            // Files beyond those go with later bytes, of which there must be some.
            let more = self.output_files.len() > files.len();
            let bytes = if more { &bytes[..1] } else { bytes };
            match transmit(&self.client, bytes, &files) {
                Ok(sent) => {
                    let taken = files.len();
                    self.output.drain(..sent);
                    self.output_files.drain(..taken);
                }
                Err(Errno::AGAIN) => break,
                Err(err) => return Err(Error::from(err)),
            }
        }
        Ok(())
    }
}

fn receive(
    socket: &UnixStream,
    buffer: &mut [u8],
    control: &mut RecvAncillaryBuffer<'_>,
    files: &mut VecDeque<OwnedFd>,
) -> rustix::io::Result<(usize, ReturnFlags)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let message = retry_on_intr(|| recvmsg(socket, &mut slices, control, flags))?;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            files.extend(received);
        }
    }
    Ok((message.bytes, message.flags))
}

fn transmit(socket: &UnixStream, bytes: &[u8], files: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if files.is_empty() {
        return retry_on_intr(|| send(socket, bytes, flags));
    }
    let mut control = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_AT_ONCE))];
    let mut control = SendAncillaryBuffer::new(&mut control);
    if !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::TOOBIG);
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags))
}
