//! Where the answering side can be reached.

use std::{
    fmt::Write,
    net::{IpAddr, SocketAddr},
};

use super::{Description, Line, ice};

/// The port of a section whose addresses only the candidates tell (RFC 8839, section 4.2.2), and that of
/// one that is rejected.
const MEANINGLESS_PORTS: [u16; 2] = [9, 0];
/// The preference of candidates of type host (RFC 8445, section 5.1.2.2).
const HOST_PREFERENCE: u32 = 126;
/// RTP, and RTCP on the same port. Browsers know no other.
const COMPONENT: u32 = 1;

const CANDIDATE: &str = "a=candidate:";
const END_OF_CANDIDATES: &str = "a=end-of-candidates";

/// The description with `addresses` in place of those of its sender, the first of them as the one that
/// is to be tried first.
///
/// The candidates of each section that has some, whatever their transport, type and component, become one
/// UDP candidate of type host for each address; the first section that is not rejected gets them in any
/// case. `a=end-of-candidates` is kept once, at the section's end. Where an `m=`, `c=` or `a=rtcp:` line
/// tells a port or an address that means something, it tells the first of ours. Without addresses, the
/// candidates are taken out and nothing else is done.
pub fn rewrite_candidates(description: &Description<'_>, addresses: &[SocketAddr]) -> String {
    let sections = description.sections();
    let end = sections.iter().flatten().next().map_or("", |line| line.end);
    let end = if end.is_empty() { "\r\n" } else { end };
    let first = sections.iter().skip(1).position(|lines| !ice::is_rejected(lines)).unwrap_or_default() + 1;

    let mut out = Out { text: String::with_capacity(description.text.len() + 64 * addresses.len()), end };
    for (index, lines) in sections.iter().enumerate() {
        // A fragment may have candidates before any section.
        section(lines, index == first, addresses, &mut out);
    }
    out.text
}

fn section(lines: &[Line<'_>], must_have: bool, addresses: &[SocketAddr], out: &mut Out<'_>) {
    let (mut written, mut ended) = (false, false);
    for line in lines {
        if line.content.starts_with(CANDIDATE) {
            if !written {
                out.candidates(addresses);
            }
            written = true;
        } else if line.content == END_OF_CANDIDATES {
            ended = true;
        } else {
            match addresses.first().and_then(|address| rewrite_line(line, *address)) {
                Some(content) => out.text.extend([content.as_str(), line.end]),
                None => out.text.extend([line.content, line.end]),
            }
        }
    }
    if must_have && !written {
        out.candidates(addresses);
    }
    if ended {
        out.line(END_OF_CANDIDATES);
    }
}

struct Out<'a> {
    text: String,
    /// How lines end.
    end: &'a str,
}

impl Out<'_> {
    fn line(&mut self, content: &str) {
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push_str(self.end);
        }
        self.text.extend([content, self.end]);
    }

    fn candidates(&mut self, addresses: &[SocketAddr]) {
        for (index, address) in addresses.iter().enumerate() {
            let (foundation, ip, port) = (index + 1, address.ip(), address.port());
            let priority = priority(index);
            self.line(&format!("{CANDIDATE}{foundation} {COMPONENT} udp {priority} {ip} {port} typ host"));
        }
    }
}

/// The priority of the candidate at `index` (RFC 8445, section 5.1.2.1).
fn priority(index: usize) -> u32 {
    let local = u16::MAX.saturating_sub(u16::try_from(index).unwrap_or(u16::MAX));
    (HOST_PREFERENCE << 24) + (u32::from(local) << 8) + (256 - COMPONENT)
}

/// What becomes of a line that tells an address, if it is another one.
fn rewrite_line(line: &Line<'_>, ours: SocketAddr) -> Option<String> {
    let content = line.content;
    if let Some(value) = content.strip_prefix("c=") {
        return Some(format!("c={}", connection(value, ours.ip())?));
    }
    if let Some(value) = content.strip_prefix("a=rtcp:") {
        let (port, address) = value.split_once(' ').map_or((value, None), |(port, rest)| (port, Some(rest)));
        let told: u16 = port.parse().ok()?;
        let mut out = format!("a=rtcp:{}", if MEANINGLESS_PORTS.contains(&told) { told } else { ours.port() });
        if let Some(address) = address {
            // Writing to a string cannot fail.
            let _ = match connection(address, ours.ip()) {
                Some(connection) => write!(out, " {connection}"),
                None => write!(out, " {address}"),
            };
        }
        return Some(out);
    }
    let port = line.media_port()?;
    if MEANINGLESS_PORTS.contains(&port) {
        return None;
    }
    let (media, rest) = content.split_once(' ')?;
    let behind = rest.find(' ').map_or("", |space| &rest[space..]);
    Some(format!("{media} {}{behind}", ours.port()))
}

/// `IN IP4 ADDRESS` or `IN IP6 ADDRESS` of `ours`, if `value` is such a thing and means an address.
fn connection(value: &str, ours: IpAddr) -> Option<String> {
    let mut parts = value.split_ascii_whitespace();
    let (network, _, address) = (parts.next()?, parts.next()?, parts.next()?);
    // Behind a slash is a time to live, or a count.
    let ip = address.split('/').next().and_then(|ip| ip.parse::<IpAddr>().ok());
    if network != "IN" || ip.is_some_and(|ip| ip.is_unspecified()) {
        return None;
    }
    Some(format!("IN {} {ours}", if ours.is_ipv4() { "IP4" } else { "IP6" }))
}
