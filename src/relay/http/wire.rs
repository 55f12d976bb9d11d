//! An origin's connection as hyper sees it, which can keep what was read from it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The longest tape in bytes: more than what comes before an answer's header has been understood.
const MAX_TAPE: usize = 512 * 1024;

/// A connection to an origin.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// All that was read so far, if that is wanted and was not too much.
    tape: Option<Vec<u8>>,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, tape: None }
    }

    /// Keeps what is read.
    pub fn taped(stream: TcpStream) -> Self {
        Self { stream, tape: Some(Vec::new()) }
    }

    /// The connection, and what was read from it.
    pub fn into_parts(self) -> (TcpStream, Option<Vec<u8>>) {
        (self.stream, self.tape)
    }
}

/// What was read behind the header of an answer, interim ones (RFC 9110, section 15.2) left out.
pub(super) fn behind_head(mut read: &[u8]) -> Option<&[u8]> {
    loop {
        let interim =
            read.strip_prefix(b"HTTP/1.1 ").or_else(|| read.strip_prefix(b"HTTP/1.0 "))?.first() == Some(&b'1');
        let empty_line = (0..read.len()).find(|n| {
            let line = &read[..*n];
            line.ends_with(b"\n\r\n") || line.ends_with(b"\n\n")
        });
        let end =
            empty_line.or_else(|| (read.ends_with(b"\n\r\n") || read.ends_with(b"\n\n")).then_some(read.len()))?;
        read = &read[end..];
        if !interim {
            return Some(read);
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Some(tape) = &mut self.tape {
            let fresh = &buf.filled()[before..];
            if tape.len() + fresh.len() <= MAX_TAPE {
                tape.extend_from_slice(fresh);
            } else {
                self.tape = None;
            }
        }
        read
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_begins_behind_the_first_empty_line_of_the_final_answer() {
        for (read, body) in [
            ("HTTP/1.1 200 OK\r\na: b\r\n\r\nbody\r\n\r\n", Some("body\r\n\r\n")),
            ("HTTP/1.1 200 OK\r\n\r\n", Some("")),
            ("HTTP/1.0 200 OK\na: b\n\nbody", Some("body")),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\n\r\n1\r\n",
                Some("1\r\n"),
            ),
            ("HTTP/1.1 100 Continue\r\n\r\n", None),
            ("HTTP/1.1 200 OK\r\na: b\r\n", None),
            ("", None),
        ] {
            assert_eq!(behind_head(read.as_bytes()), body.map(str::as_bytes), "{read:?}");
        }
    }
}
