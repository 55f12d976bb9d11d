//! Buffers that connections borrow while bytes are on their way, and only then.

use crate::sync::lock;
use std::{
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex},
};

/// The size of a buffer in bytes: what one read takes at the most. SRS sends players what has come in
/// 350 ms at once, some 113 KB of a 2.6 Mbit/s stream; half of the system calls are saved if one read
/// takes it all.
pub const BUFFER_SIZE: usize = 128 * 1024;
/// How many unused buffers are kept for the next reader. More are in use only while receivers are
/// slower than senders, two for each connection at the most.
const MAX_SPARE: usize = 32;

/// Where buffers come from and go back to. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Pool {
    spare: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// A buffer of [`BUFFER_SIZE`] bytes, given back when dropped. What it holds at first is left over
/// from another connection: read into it before anything is read from it.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    pool: Pool,
}

impl Pool {
    /// A spare buffer, or a new one.
    pub fn take(&self) -> Buffer {
        let spare = lock(&self.spare).pop();
        let bytes = spare.unwrap_or_else(|| vec![0; BUFFER_SIZE].into_boxed_slice());
        Buffer { bytes, pool: self.clone() }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut spare = lock(&self.pool.spare);
        if spare.len() < MAX_SPARE {
            spare.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_was_given_back_is_used_again_and_few_are_kept() {
        let pool = Pool::default();
        let first = pool.take();
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take().as_ptr(), address);

        drop((0..2 * MAX_SPARE).map(|_| pool.take()).collect::<Vec<_>>());
        assert_eq!(pool.spare.lock().unwrap().len(), MAX_SPARE);
    }
}
