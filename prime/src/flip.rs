//! Framebuffers that are shared, and what keeps one alive while a display shows it or is about to.
//!
//! ```text
//!   cache ── SharedFramebuffer ──> Staging::show ──> CommitId     (the number, for one request)
//!                │ counted           │ commit succeeded
//!                v                   v
//!             dropped             pending ──(flip event)──> current ──(next flip)──> released
//! ```
//!
//! The number that a commit needs is lent by [`Staging::show`] only, which keeps a counted reference; a commit that succeeds moves
//! the reference to `pending`, and only the flip event moves it on. So there is no way to commit a shared framebuffer and
//! have it closed before it has left the screen: neither dropping one's own reference nor evicting it from a cache does,
//! and the one call that closes framebuffers in use, [`PlaneFramebuffers::turn_off`], is for exactly that.
//!
//! It issues no commit and reads no event: the caller does both, and says so.

use std::{
    fmt, io,
    marker::PhantomData,
    num::NonZeroU32,
    sync::{Arc, Weak},
};

use drm_fourcc::{DrmFourcc, DrmModifier};

use crate::{framebuffer::Framebuffer, handles::GemHandle, ledger::FramebufferName, origin::Origin};

/// A counted reference on a framebuffer. The last one to be dropped closes it.
///
/// It has no number to commit; [`Staging::show`] lends it:
///
/// ```compile_fail,E0599
/// # fn demo(shared: drm_prime::SharedFramebuffer) {
/// let id = shared.id(); // could be committed after `shared` is gone
/// # }
/// ```
///
/// ```compile_fail,E0507
/// # fn demo(planes: &mut drm_prime::PlaneFramebuffers, plane: std::num::NonZeroU32) {
/// // What a plane shows can be looked at, and not be taken away.
/// let shown: drm_prime::SharedFramebuffer = *planes.current(plane).unwrap();
/// # }
/// ```
#[derive(Clone)]
pub struct SharedFramebuffer(Arc<Framebuffer>);

impl SharedFramebuffer {
    /// Takes a framebuffer over, to be shared.
    #[must_use]
    pub fn new(framebuffer: Framebuffer) -> Self {
        Self(Arc::new(framebuffer))
    }

    /// The framebuffer itself, if this is the last reference: no plane shows it and no cache has it.
    ///
    /// # Errors
    /// The reference, if there are others.
    pub fn into_inner(self) -> Result<Framebuffer, Self> {
        Arc::try_unwrap(self.0).map_err(Self)
    }

    /// Whether there are other references: a plane shows it, a frame is about to, or a cache has it.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// What logs and debugfs call it; not to be committed.
    #[must_use]
    pub fn name(&self) -> FramebufferName {
        self.0.name()
    }

    /// The framebuffer's format: the buffer's, or its opaque substitute.
    #[must_use]
    pub fn format(&self) -> DrmFourcc {
        self.0.format()
    }

    /// The buffer's modifier.
    #[must_use]
    pub fn modifier(&self) -> DrmModifier {
        self.0.modifier()
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.0.width()
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.0.height()
    }

    /// Where the memory of the first buffer plane came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        self.0.origin()
    }

    /// References on the handles it was made of, one per buffer plane.
    #[must_use]
    pub fn handles(&self) -> &[GemHandle] {
        self.0.handles()
    }

    /// Whether it has not been removed by [`PlaneFramebuffers::turn_off`].
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Something that tells whether there are still references, and is none.
    #[must_use]
    pub fn watch(&self) -> FramebufferWatch {
        FramebufferWatch(Arc::downgrade(&self.0))
    }
}

/// Tells whether anybody still has a [`SharedFramebuffer`].
#[derive(Clone, Debug)]
pub struct FramebufferWatch(Weak<Framebuffer>);

impl FramebufferWatch {
    /// There is a reference.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// It is this one that is watched.
    #[must_use]
    pub fn is_of(&self, framebuffer: &SharedFramebuffer) -> bool {
        std::ptr::eq(self.0.as_ptr(), Arc::as_ptr(&framebuffer.0))
    }
}

impl fmt::Debug for SharedFramebuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Two references are equal if they are on one framebuffer.
impl PartialEq for SharedFramebuffer {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for SharedFramebuffer {}

/// The number of a framebuffer for one commit. It cannot leave the call that builds and sends it:
///
/// ```compile_fail
/// # use drm_prime::{PlaneFramebuffers, SharedFramebuffer};
/// # fn demo(planes: &mut PlaneFramebuffers, plane: std::num::NonZeroU32, shared: &SharedFramebuffer) {
/// let mut kept = None;
/// let _ = planes.commit(|staging| {
///     kept = Some(staging.show(plane, shared));
///     Ok::<(), ()>(())
/// });
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitId<'a> {
    id: NonZeroU32,
    staging: PhantomData<&'a ()>,
}

impl CommitId<'_> {
    /// The value of the plane's `FB_ID` property.
    #[must_use]
    pub fn get(self) -> u32 {
        self.id.get()
    }
}

#[derive(Debug, Default)]
enum Change {
    #[default]
    Keep,
    Off,
    Show(SharedFramebuffer),
}

#[derive(Debug)]
struct Slot {
    plane: NonZeroU32,
    staged: Change,
    pending: Change,
    current: Option<SharedFramebuffer>,
}

/// The framebuffers that the planes of one CRTC show (`current`) and are about to show (`pending`), each with a
/// counted reference.
///
/// One commit after the other goes through [`commit`](Self::commit); [`flipped`](Self::flipped) is called for every event.
/// Once every plane has been used, neither allocates.
///
/// ```
/// use drm_prime::{PlaneFramebuffers, SharedFramebuffer};
/// # fn atomic_commit(_plane: u32, _fb_id: u32) -> std::io::Result<()> { Ok(()) }
///
/// fn frame(
///     planes: &mut PlaneFramebuffers,
///     plane: std::num::NonZeroU32,
///     content: &SharedFramebuffer,
/// ) -> std::io::Result<()> {
///     planes.commit(|staging| {
///         let id = staging.show(plane, content);
///         atomic_commit(plane.get(), id.get())
///     })
/// }
/// ```
///
/// While a commit is being built nothing can be released:
///
/// ```compile_fail,E0499
/// # use drm_prime::{PlaneFramebuffers, SharedFramebuffer};
/// # fn demo(planes: &mut PlaneFramebuffers, plane: std::num::NonZeroU32, shared: &SharedFramebuffer) {
/// let _ = planes.commit(|staging| {
///     let id = staging.show(plane, shared);
///     planes.flipped();
///     Ok::<_, ()>(id.get())
/// });
/// # }
/// ```
#[derive(Debug, Default)]
pub struct PlaneFramebuffers {
    slots: Vec<Slot>,
    /// Commits whose event has not come yet.
    outstanding: u32,
    /// Pending framebuffers of commits that another one followed before their event.
    superseded: Vec<SharedFramebuffer>,
}

impl PlaneFramebuffers {
    /// A CRTC of which nothing is known to be shown.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds and sends a commit whose event is to come. If `submit` succeeds, what it staged is pending until
    /// [`flipped`](Self::flipped); if not, nothing has changed.
    ///
    /// # Errors
    /// What `submit` said.
    pub fn commit<T, E>(&mut self, submit: impl FnOnce(&mut Staging<'_>) -> Result<T, E>) -> Result<T, E> {
        let sent = self.stage(submit)?;
        let (slots, superseded) = (&mut self.slots, &mut self.superseded);
        for slot in slots.iter_mut().filter(|slot| !matches!(slot.staged, Change::Keep)) {
            if let Change::Show(before) =
                std::mem::replace(&mut slot.pending, std::mem::take(&mut slot.staged))
            {
                superseded.push(before);
            }
        }
        self.outstanding += 1;
        Ok(sent)
    }

    /// Builds and sends a commit that has taken effect when `submit` returns: one that blocks and asks for no event. If
    /// it fails, nothing has changed.
    ///
    /// # Errors
    /// What `submit` said.
    pub fn commit_now<T, E>(
        &mut self,
        submit: impl FnOnce(&mut Staging<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let sent = self.stage(submit)?;
        for slot in &mut self.slots {
            // The kernel has carried out earlier commits first.
            if !matches!(slot.staged, Change::Keep) {
                slot.pending = Change::Keep;
            }
            apply(&mut slot.current, &mut slot.staged);
        }
        Ok(sent)
    }

    /// Builds and sends a commit that changes nothing (`TEST_ONLY`): nothing is kept.
    pub fn test<T>(&mut self, submit: impl FnOnce(&mut Staging<'_>) -> T) -> T {
        let answer = self.stage(|staging| Ok::<_, std::convert::Infallible>(submit(staging)));
        self.unstage();
        let Ok(answer) = answer;
        answer
    }

    fn stage<T, E>(&mut self, submit: impl FnOnce(&mut Staging<'_>) -> Result<T, E>) -> Result<T, E> {
        // A panic in `submit` may have left some, of which nobody knows whether they were committed.
        for slot in &mut self.slots {
            if let Change::Show(unknown) = std::mem::take(&mut slot.staged) {
                self.superseded.push(unknown);
            }
        }
        let outcome = submit(&mut Staging { planes: self });
        if outcome.is_err() {
            self.unstage();
        }
        outcome
    }

    fn unstage(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.staged = Change::Keep);
    }

    /// Notes an event. Once it is that of the last commit, what was pending is current, what was current is released, and
    /// the answer is true.
    pub fn flipped(&mut self) -> bool {
        self.outstanding = self.outstanding.saturating_sub(1);
        if self.outstanding > 0 {
            return false;
        }
        for slot in &mut self.slots {
            apply(&mut slot.current, &mut slot.pending);
        }
        self.superseded.clear();
        true
    }

    /// Notes that the events of all commits so far will not come, or not count, and that the kernel has carried the commits
    /// out: a commit that blocks came back after them. What was pending is current, what was current is released.
    pub fn settle(&mut self) {
        self.outstanding = 0;
        for slot in &mut self.slots {
            apply(&mut slot.current, &mut slot.pending);
        }
        self.superseded.clear();
    }

    /// Number of commits whose event has not come yet.
    #[must_use]
    pub fn outstanding(&self) -> u32 {
        self.outstanding
    }

    /// What a plane shows.
    #[must_use]
    pub fn current(&self, plane: NonZeroU32) -> Option<&SharedFramebuffer> {
        self.slots.iter().find(|slot| slot.plane == plane)?.current.as_ref()
    }

    /// What a plane is about to show, if a commit that changes it is outstanding.
    #[must_use]
    pub fn pending(&self, plane: NonZeroU32) -> Option<&SharedFramebuffer> {
        match &self.slots.iter().find(|slot| slot.plane == plane)?.pending {
            Change::Show(framebuffer) => Some(framebuffer),
            Change::Keep | Change::Off => None,
        }
    }

    /// Removes every framebuffer held here *and turns off every plane that shows one* (`RMFB`), so that the next master cannot
    /// read its content: the end of a session, or a lock. Whoever still shares one finds it closed
    /// ([`SharedFramebuffer::is_open`]).
    ///
    /// # Errors
    /// The first errno; the others have been removed all the same.
    pub fn turn_off(&mut self) -> io::Result<()> {
        let mut outcome = Ok(());
        let mut remove = |framebuffer: &SharedFramebuffer| {
            if let Err(err) = framebuffer.0.turn_off()
                && outcome.is_ok()
            {
                outcome = Err(err);
            }
        };
        self.superseded.drain(..).for_each(|framebuffer| remove(&framebuffer));
        for slot in &mut self.slots {
            slot.current.take().iter().for_each(&mut remove);
            if let Change::Show(framebuffer) = std::mem::take(&mut slot.pending) {
                remove(&framebuffer);
            }
        }
        outcome
    }
}

fn apply(current: &mut Option<SharedFramebuffer>, change: &mut Change) {
    match std::mem::take(change) {
        Change::Keep => {}
        Change::Off => *current = None,
        Change::Show(framebuffer) => *current = Some(framebuffer),
    }
}

/// A commit that is being built: lends the numbers of framebuffers and keeps a reference on each.
#[derive(Debug)]
pub struct Staging<'a> {
    planes: &'a mut PlaneFramebuffers,
}

impl Staging<'_> {
    fn set(&mut self, plane: NonZeroU32, change: Change) {
        match self.planes.slots.iter_mut().find(|slot| slot.plane == plane) {
            Some(slot) => slot.staged = change,
            None => {
                let (pending, current) = (Change::Keep, None);
                self.planes.slots.push(Slot { plane, staged: change, pending, current });
            }
        }
    }

    /// The plane shows `framebuffer` after this commit.
    pub fn show(&mut self, plane: NonZeroU32, framebuffer: &SharedFramebuffer) -> CommitId<'_> {
        self.set(plane, Change::Show(framebuffer.clone()));
        CommitId { id: framebuffer.0.id(), staging: PhantomData }
    }

    /// The plane shows nothing after this commit.
    pub fn turn_off(&mut self, plane: NonZeroU32) {
        self.set(plane, Change::Off);
    }

    /// No plane that was ever used here shows anything after this commit.
    pub fn turn_all_off(&mut self) {
        self.planes.slots.iter_mut().for_each(|slot| slot.staged = Change::Off);
    }
}

#[cfg(test)]
mod tests;
