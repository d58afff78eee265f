//! Who hears the event stream.
//!
//! It owns the connections of those who asked for events, and what each has not read yet. A reader who is too slow costs a
//! bounded amount of memory and nobody's time: changes are left out for it, and when it has read what was sent it is told
//! the whole state anew. While nobody listens, a turn costs one comparison.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::anyhow;
use calloop::generic::Generic;
use calloop::{Interest, Mode, PostAction, RegistrationToken};

use super::Answer;
use super::events::{Event, Snapshot, changes, snapshot};
use crate::state::State;

/// Bytes that a reader may be behind before changes are left out for it.
const BEHIND: usize = 64 * 1024;
/// Readers at a time.
const READERS: usize = 16;

#[derive(Debug)]
struct Reader {
    id: u64,
    stream: UnixStream,
    /// What did not go out yet.
    unsent: Vec<u8>,
    /// Changes have been left out.
    missed: bool,
    /// It is being watched for room to write.
    waits: bool,
    /// Watches for its hanging up, and for room to write; the latter only while something is unsent.
    sources: [RegistrationToken; 2],
}

/// Bytes that a reader may say; there is nothing to say after the request.
const SAYS: usize = 4096;

/// What a change of anything that events are about shows in.
type Marks = (u64, u64, usize, u64, usize);

/// Those who hear events.
#[derive(Debug, Default)]
pub struct Watchers {
    readers: Vec<Reader>,
    last: Snapshot,
    marks: Marks,
    next: u64,
}

impl Watchers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.readers.len()
    }

    /// Nobody listens.
    pub fn is_empty(&self) -> bool {
        self.readers.is_empty()
    }

    /// Bytes that wait for readers.
    pub fn unsent(&self) -> usize {
        self.readers.iter().map(|reader| reader.unsent.len()).sum()
    }
}

fn line(event: &Event) -> Vec<u8> {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line
}

impl Reader {
    /// Sends what there is room for. Returns false when it is gone.
    fn send(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return false,
                Ok(sent) => {
                    self.unsent.drain(..sent);
                }
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => return true,
                Err(err) if err.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.unsent = Vec::new();
        true
    }

    /// Tells it of changes, or notes that it missed them.
    fn tell(&mut self, lines: &[u8]) {
        if self.missed || self.unsent.len() + lines.len() > BEHIND {
            self.missed = true;
        } else {
            self.unsent.extend_from_slice(lines);
        }
    }
}

impl State {
    /// Takes a reader in.
    pub(crate) fn watch(&mut self, stream: UnixStream) {
        if let Err(err) = self.try_watch(&stream) {
            let refused = serde_json::to_string(&Answer::Error(err.to_string())).unwrap_or_default();
            // Its buffer is empty: the line fits.
            let _ = writeln!(&stream, "{refused}");
        }
    }

    fn try_watch(&mut self, stream: &UnixStream) -> anyhow::Result<()> {
        if self.runtime.watchers.len() >= READERS {
            return Err(anyhow!("{READERS} listen already"));
        }
        let id = self.runtime.watchers.next;
        let handle = self.runtime.handle.clone();
        stream.set_nonblocking(true)?;
        let hung_up = Generic::new(stream.try_clone()?, Interest::READ, Mode::Level);
        let mut said = 0;
        let hung_up = handle.insert_source(hung_up, move |_, stream, state| {
            let mut ignored = [0; 4096];
            let mut stream: &UnixStream = stream;
            match stream.read(&mut ignored) {
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => Ok(PostAction::Continue),
                Ok(got) if got > 0 && said + got <= SAYS => {
                    said += got;
                    Ok(PostAction::Continue)
                }
                _ => {
                    state.unwatch(id, Some(0));
                    Ok(PostAction::Remove)
                }
            }
        });
        let hung_up = hung_up.map_err(|err| anyhow!("{}", err.error))?;
        let room = Generic::new(stream.try_clone()?, Interest::WRITE, Mode::Level);
        let room = handle.insert_source(room, move |_, _, state| Ok(state.reader_has_room(id)));
        let room = room.map_err(|err| {
            handle.remove(hung_up);
            anyhow!("{}", err.error)
        })?;
        handle.disable(&room)?;
        if self.runtime.watchers.is_empty() {
            self.runtime.watchers.last = snapshot(self);
            self.runtime.watchers.marks = self.marks();
        }
        let watchers = &mut self.runtime.watchers;
        watchers.next += 1;
        let unsent = line(&Event::State { missed: false, all: watchers.last.clone() });
        let stream = stream.try_clone()?;
        watchers.readers.push(Reader {
            id,
            stream,
            unsent,
            missed: false,
            waits: false,
            sources: [hung_up, room],
        });
        self.send_to_readers();
        Ok(())
    }

    /// Forgets a reader; `running` is the source that is being served, which removes itself.
    fn unwatch(&mut self, id: u64, running: Option<usize>) {
        let watchers = &mut self.runtime.watchers;
        let Some(index) = watchers.readers.iter().position(|reader| reader.id == id) else { return };
        let reader = watchers.readers.swap_remove(index);
        if !reader.waits && running != Some(1) {
            // A source that is disabled is not among the descriptors that are polled, and cannot be removed from them.
            if let Err(err) = self.runtime.handle.enable(&reader.sources[1]) {
                tracing::debug!(%err, "event reader");
            }
        }
        for (_, source) in reader.sources.iter().enumerate().filter(|(index, _)| Some(*index) != running) {
            self.runtime.handle.remove(*source);
        }
        if watchers.readers.is_empty() {
            watchers.last = Snapshot::default();
        }
    }

    fn reader_has_room(&mut self, id: u64) -> PostAction {
        let watchers = &mut self.runtime.watchers;
        let Some(reader) = watchers.readers.iter_mut().find(|reader| reader.id == id) else {
            return PostAction::Remove;
        };
        let mut alive = reader.send();
        if alive && reader.missed && reader.unsent.is_empty() {
            reader.missed = false;
            reader.unsent = line(&Event::State { missed: true, all: watchers.last.clone() });
            alive = reader.send();
        }
        match (alive, reader.unsent.is_empty()) {
            (true, true) => {
                reader.waits = false;
                PostAction::Disable
            }
            (true, false) => PostAction::Continue,
            (false, _) => {
                self.unwatch(id, Some(1));
                PostAction::Remove
            }
        }
    }

    fn send_to_readers(&mut self) {
        let mut gone = Vec::new();
        for reader in &mut self.runtime.watchers.readers {
            if !reader.send() {
                gone.push(reader.id);
            } else if !reader.unsent.is_empty() && !reader.waits {
                reader.waits = true;
                if let Err(err) = self.runtime.handle.enable(&reader.sources[1]) {
                    tracing::debug!(%err, "event reader");
                    gone.push(reader.id);
                }
            }
        }
        gone.into_iter().for_each(|id| self.unwatch(id, None));
    }

    fn marks(&self) -> Marks {
        let plans = self.outputs.iter().map(|o| o.state.plans).sum();
        let guesses = self.outputs.iter().map(|o| o.state.guesses()).sum();
        let windows = self.shell.windows().filter(|w| w.mapped).count();
        (plans, guesses, self.outputs.len(), self.dmabuf.feedback.times_told(), windows)
    }

    /// The end of a turn: those who listen hear what has changed.
    pub(crate) fn tell_watchers(&mut self) {
        if self.runtime.watchers.is_empty() {
            return;
        }
        let marks = self.marks();
        if marks == self.runtime.watchers.marks {
            return;
        }
        self.runtime.watchers.marks = marks;
        let now = snapshot(self);
        let watchers = &mut self.runtime.watchers;
        let events = changes(&watchers.last, &now);
        watchers.last = now;
        if events.is_empty() {
            return;
        }
        let lines: Vec<u8> = events.iter().flat_map(line).collect();
        watchers.readers.iter_mut().for_each(|reader| reader.tell(&lines));
        self.send_to_readers();
    }
}
