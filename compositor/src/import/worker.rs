//! The thread on which `create`s are imported that may take their time, and what becomes of them.
//!
//! ```text
//!  create ──> does the table know its memory? ──yes──> imported at once
//!                │ no
//!                └──> queue (clients take turns) ──> thread: PRIME import, CPU view ──> main thread: ways, answer
//!                        └── not begun after 100 ms: taken in without the import, which is made up for later
//! ```
//!
//! Whether an import blocks is the exporting driver's business and cannot be known before: it may pin and map memory, wait
//! for a lock that a third process holds, or hang. What cannot block is what needs no call at all, a buffer that the table
//! knows. Measured (medians): an import on vkms, which maps nothing, takes 21 µs for 16 KiB and 140 µs for 64 MiB of vgem,
//! udmabuf or a heap; importers that map (a table of pages, an IOMMU entry for each) have to be slower. The thread makes a
//! `create` 126 µs long instead of 68 µs, counted from the request to the event; in the lab, where a change of threads waits
//! for a clock tick, 6.4 instead of 0.3 ms. A buffer is created once and shown often, so it is the worst case that counts, and
//! everything unknown goes to the thread.
//!
//! While it imports, the main thread never waits for it: handles that are dropped are closed by the thread on its way out,
//! and a `create_immed`, which has to be answered at once, is taken in without the import if the device is busy
//! ([`Reason::DeviceBusy`](super::Reason)). Such a buffer is composited until the import is made up for.
//!
//! The client goes on meanwhile, and hears `created` when it is done; a roundtrip of its waits for the answer
//! ([`crate::clients`]), since clients rely on that (all of weston's simple-dmabuf clients do). When its params object or
//! the client itself is gone by then, what was imported is dropped and nobody is told anything.
//!
//! Owns: the thread, the queue and the order of answers. Does not own: what an import is ([`super`]).

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use calloop::channel::{self, Event, Sender};
use drm_prime::HandleTable;
use primeway_protocols::linux_dmabuf::PendingBuffer;
use smithay::backend::allocator::dmabuf::Dmabuf;
use smithay::reexports::wayland_server::backend::ClientId;

use super::{Accepted, Candidate, Imported, Refusal};
use crate::clients::ClientState;
use crate::state::State;

/// How long a `create` waits for its turn before it is taken in without the import.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long the thread waits for more to do before it ends.
const IDLE: Duration = Duration::from_secs(1);

/// The answer that is owed.
type Answer = PendingBuffer<State>;

/// A `create` that waits for its import.
#[derive(Debug)]
struct Job {
    candidate: Candidate,
    owed: Owed,
}

/// An answer, and whom it keeps waiting.
#[derive(Debug)]
struct Owed {
    answer: Answer,
    client: Arc<ClientState>,
}

/// A `create` whose import was made; without one if nobody wants it any more.
#[derive(Debug)]
struct Done {
    imported: Option<Imported>,
    owed: Owed,
}

/// What clients wait for, since when; they take turns.
#[derive(Debug)]
struct Turns<C, J>(VecDeque<(C, VecDeque<(Instant, J)>)>);

impl<C: PartialEq, J> Turns<C, J> {
    fn push(&mut self, client: C, since: Instant, job: J) {
        match self.0.iter_mut().find(|(other, _)| *other == client) {
            Some((_, jobs)) => jobs.push_back((since, job)),
            None => self.0.push_back((client, VecDeque::from([(since, job)]))),
        }
    }

    fn pop(&mut self) -> Option<J> {
        let (client, mut jobs) = self.0.pop_front()?;
        let (_, job) = jobs.pop_front()?;
        if !jobs.is_empty() {
            self.0.push_back((client, jobs));
        }
        Some(job)
    }

    /// Takes out what has waited since `then` or longer; says since when the first of the others waits.
    fn overdue(&mut self, then: Instant) -> (Vec<J>, Option<Instant>) {
        let mut overdue = Vec::new();
        for (_, jobs) in &mut self.0 {
            while jobs.front().is_some_and(|(since, _)| *since <= then) {
                overdue.extend(jobs.pop_front().map(|(_, job)| job));
            }
        }
        self.0.retain(|(_, jobs)| !jobs.is_empty());
        let left = self.0.iter().filter_map(|(_, jobs)| Some(jobs.front()?.0)).min();
        (overdue, left)
    }
}

#[derive(Debug)]
struct Queue {
    turns: Turns<ClientId, Job>,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

impl Shared {
    fn new() -> Self {
        let queue = Queue { turns: Turns(VecDeque::new()), ended: false };
        Self { queue: Mutex::new(queue), wake: Condvar::new() }
    }

    /// The next job, once there is one; `None` at the end, which also comes when there is none for long.
    fn next(&self) -> Option<Job> {
        let mut queue = crate::lock(&self.queue);
        while !queue.ended {
            if let Some(job) = queue.turns.pop() {
                return Some(job);
            }
            let waited = self.wake.wait_timeout(queue, IDLE).unwrap_or_else(PoisonError::into_inner);
            queue = waited.0;
            queue.ended |= waited.1.timed_out() && queue.turns.0.is_empty();
        }
        None
    }

    /// Adds a job; gives it back when the end has come.
    fn push(&self, job: Job) -> Option<Job> {
        let mut queue = crate::lock(&self.queue);
        if queue.ended {
            return Some(job);
        }
        queue.turns.push(job.owed.answer.client().id(), Instant::now(), job);
        self.wake.notify_one();
        None
    }
}

fn work(shared: &Shared, table: &HandleTable, done: &Sender<Done>) {
    while let Some(Job { candidate, owed }) = shared.next() {
        let imported = owed.answer.is_wanted().then(|| candidate.import(table));
        if done.send(Done { imported, owed }).is_err() {
            return;
        }
    }
}

/// The thread, which is there while `create`s need it, and a second longer.
#[derive(Debug, Default)]
pub struct Worker {
    shared: Option<Arc<Shared>>,
    /// A timer looks after those that wait too long.
    watched: bool,
}

impl Worker {
    /// Whether there is a thread.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| !crate::lock(&shared.queue).ended)
    }
}

impl Worker {
    /// Has a new thread see to what comes from now on; the one there is finishes what it has, on the device that it has.
    pub(crate) fn start_anew(&mut self) {
        self.shared = None;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            crate::lock(&shared.queue).ended = true;
            // Not joined: an import that hangs must not keep the compositor from ending.
            shared.wake.notify_all();
        }
    }
}

impl State {
    /// Takes a buffer in at once.
    pub(crate) fn create_now(&mut self, candidate: Result<Candidate, Refusal>) -> Result<Dmabuf, Refusal> {
        let imported = candidate?.import_unless_busy(self.backend.buffers().table());
        let accepted = self.accept(imported)?;
        Ok(accepted.keep(&mut self.dmabuf.imports))
    }

    fn accept(&mut self, imported: Imported) -> Result<Accepted, Refusal> {
        let direct_scanout = self.runtime.direct_scanout;
        imported.accept(&mut self.backend, &mut self.painter, &mut self.dmabuf.imports, direct_scanout)
    }

    /// Takes a buffer in and answers, at once if that cannot take long.
    pub(crate) fn create_later(&mut self, candidate: Candidate, answer: Answer) {
        let table = self.backend.buffers().table();
        let client = self.client_state(answer.client().id()).filter(|_| candidate.may_block(table));
        let Some(client) = client else {
            let imported = candidate.import_unless_busy(table);
            self.answer_create(imported, answer);
            return;
        };
        client.import_began();
        let job = Job { candidate, owed: Owed { answer, client } };
        if let Some(Job { candidate, owed }) = self.import_on_thread(job) {
            let imported = candidate.import_unless_busy(self.backend.buffers().table());
            self.import_done(Some(imported), owed);
            return;
        }
        if !std::mem::replace(&mut self.dmabuf.worker.watched, true) {
            self.watch_imports(PATIENCE);
        }
    }

    /// Gives the thread a job; it is started if there is none. The job comes back if it does not start.
    fn import_on_thread(&mut self, job: Job) -> Option<Job> {
        let job = match &self.dmabuf.worker.shared {
            Some(shared) => shared.push(job)?,
            None => job,
        };
        let (sender, done) = channel::channel();
        // The source goes when the thread ends and drops its sender.
        let inserted = self.runtime.handle.insert_source(done, |event, (), state| {
            if let Event::Msg(Done { imported, owed }) = event {
                state.import_done(imported, owed);
            }
        });
        if let Err(err) = inserted {
            tracing::error!(err = %err.error, "imports cannot be waited for");
            return Some(job);
        }
        let shared = Arc::new(Shared::new());
        let (theirs, table) = (shared.clone(), self.backend.buffers().table().clone());
        let thread = std::thread::Builder::new().name("import".into());
        if let Err(err) = thread.spawn(move || work(&theirs, &table, &sender)) {
            tracing::warn!(%err, "no thread for imports");
            return Some(job);
        }
        tracing::debug!("import thread started");
        let pushed = shared.push(job);
        self.dmabuf.worker.shared = Some(shared);
        pushed
    }

    fn import_done(&mut self, imported: Option<Imported>, owed: Owed) {
        let Owed { answer, client } = owed;
        match imported.filter(|_| answer.is_wanted()) {
            Some(imported) => self.answer_create(imported, answer),
            // It answers nobody.
            None => drop(answer),
        }
        if client.import_ended() {
            self.imports_done(&client);
        }
    }

    /// Answers with a buffer that is there.
    pub(crate) fn answer_with(&mut self, dmabuf: Dmabuf, answer: Answer) {
        if !answer.send(Ok(dmabuf.clone())) {
            self.buffer_ended(&dmabuf);
        }
    }

    fn answer_create(&mut self, imported: Imported, answer: Answer) {
        match self.accept(imported) {
            Ok(accepted) => {
                let dmabuf = accepted.keep(&mut self.dmabuf.imports);
                self.answer_with(dmabuf, answer);
            }
            Err(refusal) => {
                answer.send(Err(self.refused(refusal)));
            }
        }
    }

    /// Sees in a while to the `create`s whose turn does not come.
    fn watch_imports(&mut self, wait: Duration) {
        self.runtime.timers.after(wait, |state| {
            state.dmabuf.worker.watched = false;
            state.import_overdue();
        });
    }

    fn import_overdue(&mut self) {
        let Some(shared) = self.dmabuf.worker.shared.clone() else { return };
        let now = Instant::now();
        let Some(then) = now.checked_sub(PATIENCE) else { return };
        let (overdue, left) = crate::lock(&shared.queue).turns.overdue(then);
        for Job { candidate, owed } in overdue {
            tracing::debug!("an import waits for another one, which takes long");
            let imported = candidate.import_unless_busy(self.backend.buffers().table());
            self.import_done(Some(imported), owed);
        }
        if let Some(since) = left {
            self.dmabuf.worker.watched = true;
            self.watch_imports((since + PATIENCE).saturating_duration_since(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_each_is_served_in_order() {
        let now = Instant::now();
        let mut turns = Turns(VecDeque::new());
        for (client, job) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("b", 6)] {
            turns.push(client, now, job);
        }
        let order: Vec<_> = std::iter::from_fn(|| turns.pop()).collect();
        assert_eq!(order, [1, 4, 5, 2, 6, 3]);
        assert!(turns.0.is_empty());
    }

    #[test]
    fn what_waits_too_long_is_taken_out_and_the_rest_is_known() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut turns = Turns(VecDeque::new());
        for (client, ms) in [("a", 0), ("b", 30), ("a", 10), ("a", 40)] {
            turns.push(client, at(ms), ms);
        }
        assert_eq!(turns.overdue(at(10)), (vec![0, 10], Some(at(30))));
        assert_eq!(turns.overdue(at(29)), (vec![], Some(at(30))));
        assert_eq!(turns.overdue(at(50)), (vec![40, 30], None));
        assert!(turns.0.is_empty() && turns.pop().is_none());
    }
}
