//! The order and age of the buffers that composition draws into; what a buffer is, the backend says.

use rustix::io::Errno;

use super::SubmitError;

/// On screen, pending, being drawn, and one to spare while a frame waits for its release.
const MAX_BUFFERS: usize = 4;

#[derive(Debug)]
struct Slot<T> {
    buffer: T,
    /// When it was drawn, in draws of the whole swapchain; 0 for never.
    drawn_at: u64,
}

/// Up to four buffers, allocated when they are needed.
#[derive(Debug)]
pub struct Swapchain<T> {
    slots: Vec<Slot<T>>,
    drawn: u64,
}

impl<T> Default for Swapchain<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), drawn: 0 }
    }
}

impl<T> Swapchain<T> {
    fn grow(&mut self, allocate: impl FnOnce() -> Result<T, Errno>) -> Result<usize, Errno> {
        self.slots.push(Slot { buffer: allocate()?, drawn_at: 0 });
        Ok(self.slots.len() - 1)
    }

    /// Some buffer, if there is one, whatever it holds.
    pub fn first(&self) -> Option<&T> {
        self.slots.first().map(|slot| &slot.buffer)
    }

    /// Any buffer, whatever it holds.
    ///
    /// # Errors
    /// When the first one cannot be allocated.
    pub fn any(&mut self, allocate: impl FnOnce() -> Result<T, Errno>) -> Result<&T, Errno> {
        let index = if self.slots.is_empty() { self.grow(allocate)? } else { 0 };
        Ok(&self.slots[index].buffer)
    }

    /// Lets `draw` draw into the free buffer with the youngest contents, given its age as in EGL_EXT_buffer_age.
    /// Returns that buffer or, if `draw` changed nothing, the one drawn last.
    ///
    /// # Errors
    /// Busy when no buffer is free and no more may be allocated; the errno of a failed allocation.
    pub fn compose(
        &mut self,
        is_free: impl Fn(&T) -> bool,
        allocate: impl FnOnce() -> Result<T, Errno>,
        draw: impl FnOnce(&mut T, usize) -> bool,
    ) -> Result<&T, SubmitError> {
        let free = (0..self.slots.len())
            .filter(|&i| is_free(&self.slots[i].buffer))
            .max_by_key(|&i| self.slots[i].drawn_at);
        let index = match free {
            Some(index) => index,
            None if self.slots.len() < MAX_BUFFERS => self.grow(allocate).map_err(SubmitError::Failed)?,
            None => return Err(SubmitError::Busy),
        };
        let slot = &mut self.slots[index];
        let age = if slot.drawn_at == 0 { 0 } else { self.drawn - slot.drawn_at + 1 };
        if draw(&mut slot.buffer, usize::try_from(age).unwrap_or(0)) {
            self.drawn += 1;
            slot.drawn_at = self.drawn;
            return Ok(&self.slots[index].buffer);
        }
        let last = self.slots.iter().max_by_key(|s| s.drawn_at);
        last.map(|s| &s.buffer).ok_or(SubmitError::Failed(Errno::NOENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn ages_count_the_draws_since_a_buffer_was_drawn() {
        let mut chain = Swapchain::default();
        let shown = Cell::new(None);
        let next = Cell::new(0);
        let mut ages = Vec::new();
        for _ in 0..5 {
            let allocate = || {
                next.set(next.get() + 1);
                Ok(next.get())
            };
            let drawn = chain.compose(
                |b| Some(*b) != shown.get(),
                allocate,
                |_, age| {
                    ages.push(age);
                    true
                },
            );
            shown.set(drawn.ok().copied());
        }
        // Two buffers take turns: each is two draws old when its turn comes.
        assert_eq!(ages, [0, 0, 2, 2, 2]);
        assert_eq!(next.get(), 2);
    }

    #[test]
    fn a_draw_without_change_gives_the_last_buffer_back() {
        let mut chain = Swapchain::default();
        let first = *chain.compose(|_| true, || Ok(1), |_, _| true).unwrap();
        let again = *chain.compose(|_| false, || Ok(2), |_, _| false).unwrap();
        assert_eq!((first, again), (1, 1));
    }

    #[test]
    fn it_is_busy_when_every_buffer_is_shown() {
        let mut chain = Swapchain::default();
        for i in 0..MAX_BUFFERS {
            chain.compose(|_| false, || Ok(i), |_, _| true).unwrap();
        }
        assert!(matches!(chain.compose(|_| false, || Ok(9), |_, _| true), Err(SubmitError::Busy)));
    }
}
