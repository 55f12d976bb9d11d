//! Connections that do not behave.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Bytes of C1 and C2, and of S1 and S2 (RTMP 1.0, section 5.2).
const HANDSHAKE: usize = 1536;

/// A bare TCP connection to an RTMP server.
pub struct Raw(TcpStream);

impl Raw {
    /// Connects and sends nothing.
    pub fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        Self(stream)
    }

    /// Sends bytes; a server that has closed already is no failure of the test.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.0.write_all(bytes);
    }

    /// Does the simple handshake.
    pub fn handshake(&mut self) {
        self.0.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        self.0.write_all(&[3]).unwrap();
        self.0.write_all(&[0; HANDSHAKE]).unwrap();
        let mut answer = [0; 1 + 2 * HANDSHAKE];
        self.0.read_exact(&mut answer).unwrap();
        self.0.write_all(&answer[1..=HANDSHAKE]).unwrap();
    }

    /// Whether the server has closed or reset the connection.
    pub fn is_closed(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        let closed = loop {
            match self.0.read(&mut buffer) {
                Ok(0) => break true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break false,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        self.0.set_nonblocking(false).unwrap();
        closed
    }
}

/// How many connections the server still holds open.
pub fn open(connections: &mut [Raw]) -> usize {
    connections.iter_mut().map(Raw::is_closed).filter(|closed| !closed).count()
}
