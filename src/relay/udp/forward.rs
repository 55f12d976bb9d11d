//! From the origin's socket to the client's address.

use std::{cell::RefCell, io};

use super::{INTEREST, Path, Reader, Received, Socket, TURN, batch};

/// The most bytes that the system takes at once, headers included (RFC 768, RFC 791).
const MAX_BURST: usize = 65_535 - 8 - 40;

/// Knows where a session's datagrams go.
pub trait Flow {
    /// Where a datagram of the origin goes; none if it is dropped. One that ends the session is sent
    /// on, too.
    fn route(&mut self, datagram: &[u8]) -> Option<Path>;
}

/// What was forwarded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forwarded {
    /// Datagrams that came from the origin.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Datagrams that the system did not take.
    pub unsent: u64,
}

thread_local! {
    static BURST: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(MAX_BURST));
}

/// Waits for datagrams of an origin and sends them through `out`, those of one size that follow each
/// other in one call. Returns when there are none for now, or when others should have their turn.
pub async fn forward(origin: &Reader, out: &Socket, flow: &mut impl Flow) -> io::Result<Forwarded> {
    let mut ready = origin.socket.ready(INTEREST).await?;
    let mut done = Forwarded::default();
    batch::with(|batch| {
        for size in batch::sizes().take(TURN) {
            let count = match batch.fill(origin.socket(), size) {
                Ok(count) => count,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        return Err(error);
                    }
                    ready.clear_ready();
                    break;
                }
            };
            BURST.with_borrow_mut(|joined| {
                let mut burst = Burst { out, joined, first: None, count: 0, last: 0, unsent: 0 };
                for datagram in batch.received(origin.socket(), count).flat_map(Received::datagrams) {
                    done.packets += 1;
                    done.bytes += datagram.len() as u64;
                    if let Some(path) = flow.route(datagram) {
                        burst.add(datagram, path);
                    }
                }
                burst.flush();
                done.unsent += burst.unsent;
            });
            if count < size {
                ready.clear_ready();
                break;
            }
        }
        Ok(done)
    })
}

/// Datagrams for one client that go out together.
struct Burst<'a> {
    out: &'a Socket,
    /// All of them, if there is more than one.
    joined: &'a mut Vec<u8>,
    first: Option<(Path, &'a [u8])>,
    count: usize,
    /// The length of the last one.
    last: usize,
    unsent: u64,
}

impl<'a> Burst<'a> {
    fn add(&mut self, datagram: &'a [u8], path: Path) {
        let Some((to, first)) = self.first.filter(|(to, first)| self.takes(datagram, path, *to, first.len())) else {
            self.flush();
            (self.first, self.count, self.last) = (Some((path, datagram)), 1, datagram.len());
            return;
        };
        debug_assert_eq!(to, path);
        if self.count == 1 {
            self.joined.clear();
            self.joined.extend_from_slice(first);
        }
        self.joined.extend_from_slice(datagram);
        self.count += 1;
        self.last = datagram.len();
    }

    /// Whether one more can go with those that are there: all have one size but for the last, which may
    /// be shorter.
    fn takes(&self, datagram: &[u8], path: Path, to: Path, size: usize) -> bool {
        path == to
            && self.last == size
            && (1..=size).contains(&datagram.len())
            && self.count < self.out.max_segments()
            && size * self.count + datagram.len() <= MAX_BURST
    }

    fn flush(&mut self) {
        let Some((path, first)) = self.first.take() else { return };
        if self.count == 1 {
            self.unsent += u64::from(self.out.send_to(first, path).is_err());
            return;
        }
        let Err(error) = self.out.send_many(self.joined, first.len(), path) else { return };
        if error.kind() == io::ErrorKind::WouldBlock {
            self.unsent += self.count as u64;
            return;
        }
        // The network card, or the way, does not take them together.
        for datagram in self.joined.chunks(first.len()) {
            self.unsent += u64::from(self.out.send_to(datagram, path).is_err());
        }
    }
}
