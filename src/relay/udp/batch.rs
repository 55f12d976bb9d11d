//! What one system call receives. The memory for it belongs to the thread, not to a socket: what is
//! received has been sent on before anything else is read.

use std::{
    cell::RefCell,
    io::{self, IoSliceMut},
    iter,
};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef};

use super::{Path, Received, Socket};

/// The most that one receive can give for one peer: 64 datagrams that the system has joined, or one of
/// the largest size.
const SLOT: usize = 64 * 1024;

/// For how many peers' datagrams there is room at first. Mostly there is one, and more room costs time
/// whether it is used or not.
const FIRST: usize = 4;

/// The sizes of the batches that one turn receives.
pub(super) fn sizes() -> impl Iterator<Item = usize> {
    iter::once(FIRST).chain(iter::repeat(BATCH_SIZE))
}

/// Room for one batch.
pub(super) struct Batch {
    slots: Vec<u8>,
    meta: [RecvMeta; BATCH_SIZE],
}

thread_local! {
    static BATCH: RefCell<Batch> = RefCell::new(Batch::new());
}

/// Lends this thread's batch. What is done with it must not ask for it again.
pub(super) fn with<T>(work: impl FnOnce(&mut Batch) -> T) -> T {
    BATCH.with_borrow_mut(work)
}

impl Batch {
    fn new() -> Self {
        Self { slots: vec![0; SLOT * BATCH_SIZE], meta: [RecvMeta::default(); BATCH_SIZE] }
    }

    /// Receives once, from up to `size` peers; gives whether there may be more.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        size: usize,
        mut take: impl FnMut(Received<'_>),
    ) -> io::Result<bool> {
        let count = self.fill(socket, size)?;
        for received in self.received(socket, count) {
            take(received);
        }
        Ok(count == size)
    }

    /// Receives once, from up to `size` peers; gives from how many.
    pub(super) fn fill(&mut self, socket: &Socket, size: usize) -> io::Result<usize> {
        let mut room = self.slots.chunks_exact_mut(SLOT).take(size);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(room.next().unwrap_or_default()));
        socket.state.recv(UdpSockRef::from(&socket.udp), &mut slots[..size], &mut self.meta)
    }

    /// What [`Self::fill`] has received.
    pub(super) fn received(&self, socket: &Socket, count: usize) -> impl Iterator<Item = Received<'_>> {
        let is_wildcard = socket.is_wildcard;
        self.slots.chunks_exact(SLOT).zip(&self.meta).take(count).map(move |(slot, meta)| Received {
            path: Path { peer: meta.addr, local: meta.dst_ip.filter(|_| is_wildcard) },
            bytes: slot.get(..meta.len).unwrap_or(slot),
            stride: meta.stride,
        })
    }
}
