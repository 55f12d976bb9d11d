//! What one system call receives. The memory for it belongs to the thread, not to a socket: what is
//! received has been sent on before anything else is read.

use std::{
    cell::RefCell,
    io::{self, IoSliceMut},
};

use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef};

use super::{Path, Received, Socket};

/// The most that one receive can give for one peer: 64 datagrams that the system has joined, or one of
/// the largest size.
const SLOT: usize = 64 * 1024;

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

    /// Receives once; gives whether there may be more.
    pub(super) fn receive(&mut self, socket: &Socket, mut take: impl FnMut(Received<'_>)) -> io::Result<bool> {
        let count = self.fill(socket)?;
        for received in self.received(socket, count) {
            take(received);
        }
        Ok(count == BATCH_SIZE)
    }

    /// Receives once; gives how many peers' datagrams there are.
    pub(super) fn fill(&mut self, socket: &Socket) -> io::Result<usize> {
        let mut slots = self.slots.chunks_exact_mut(SLOT);
        let mut slots: [IoSliceMut<'_>; BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        socket.state.recv(UdpSockRef::from(&socket.udp), &mut slots, &mut self.meta)
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
