//! The handshake with an origin: a caller's conclusion, repeated with the origin's own cookie in it.
//! No socket and no clock; whoever owns them calls [`OriginHandshake::poll`] until it says to wait, and
//! [`OriginHandshake::receive`] with what arrives.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::codec::srt::handshake::{Handshake, HandshakeError, Packet, Reason, Stage};

/// How often an unanswered packet is sent again, as callers of libsrt do.
const RETRANSMIT: Duration = Duration::from_millis(250);

/// What the origin is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// For its cookie.
    Induction,
    /// To take the caller.
    Conclusion,
}

impl Step {
    /// The word for errors.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Induction => "induction",
            Self::Conclusion => "conclusion",
        }
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// Send this to the origin, then ask again.
    Send(&'a [u8]),
    /// Nothing until then, unless something arrives.
    Wait(Instant),
    /// The origin has not answered this in time.
    Expired(Step),
}

/// How the origin has decided; the packet is for the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It takes the caller.
    Accepted {
        /// Its answer.
        packet: Packet,
        /// The socket at which it takes the caller's packets; never 0.
        socket: u32,
    },
    /// It refuses.
    Rejected {
        /// Its answer.
        packet: Packet,
        /// Why.
        reason: Reason,
    },
}

/// A handshake with an origin that is under way.
#[derive(Debug)]
pub struct OriginHandshake {
    step: Step,
    induction: Packet,
    conclusion: Packet,
    caller: Caller,
    limit: Duration,
    deadline: Instant,
    send_at: Instant,
}

/// What the caller knows of the handshake.
#[derive(Debug)]
struct Caller {
    ip: IpAddr,
    socket: u32,
    cookie: u32,
}

impl OriginHandshake {
    /// Begins with the `conclusion` of a caller at `caller`. The `origin` has `limit` for each step.
    pub fn new(
        conclusion: &[u8],
        caller: IpAddr,
        origin: IpAddr,
        limit: Duration,
        now: Instant,
    ) -> Result<Self, HandshakeError> {
        let handshake = Handshake::parse(conclusion)?;
        let caller = Caller { ip: caller, socket: handshake.socket_id, cookie: handshake.cookie };
        // A caller writes the address that it sends to, which for the origin is its own.
        let mut induction = Packet::from(handshake.induction());
        induction.set_peer_ip(origin);
        let mut conclusion = Packet::copy(conclusion)?;
        conclusion.set_peer_ip(origin);
        let step = Step::Induction;
        Ok(Self { step, induction, conclusion, caller, limit, deadline: now + limit, send_at: now })
    }

    /// What the origin is asked now.
    pub const fn step(&self) -> Step {
        self.step
    }

    /// What to do now.
    pub fn poll(&mut self, now: Instant) -> Next<'_> {
        if now >= self.deadline {
            return Next::Expired(self.step);
        }
        if now < self.send_at {
            return Next::Wait(self.send_at.min(self.deadline));
        }
        self.send_at = now + RETRANSMIT;
        Next::Send(match self.step {
            Step::Induction => self.induction.as_bytes(),
            Step::Conclusion => self.conclusion.as_bytes(),
        })
    }

    /// Takes a packet of the origin. What does not belong to the handshake changes nothing.
    pub fn receive(&mut self, packet: &[u8], now: Instant) -> Option<Answer> {
        let handshake = Handshake::parse(packet).ok().filter(|h| h.destination == self.caller.socket)?;
        match (handshake.stage, self.step) {
            (Stage::Induction, Step::Induction) => {
                self.conclusion.set_cookie(handshake.cookie);
                self.step = Step::Conclusion;
                (self.deadline, self.send_at) = (now + self.limit, now);
                None
            }
            // The answer to one that was sent twice; the cookie may be a newer one.
            (Stage::Induction, Step::Conclusion) => {
                self.conclusion.set_cookie(handshake.cookie);
                None
            }
            (Stage::Conclusion, Step::Conclusion) if handshake.socket_id != 0 => {
                Some(Answer::Accepted { packet: self.for_caller(packet)?, socket: handshake.socket_id })
            }
            (Stage::Rejected(reason), _) => Some(Answer::Rejected { packet: self.for_caller(packet)?, reason }),
            _ => None,
        }
    }

    /// What the origin says, as the caller expects to hear it.
    fn for_caller(&self, packet: &[u8]) -> Option<Packet> {
        let mut packet = Packet::copy(packet).ok()?;
        packet.set_cookie(self.caller.cookie);
        packet.set_peer_ip(self.caller.ip);
        Some(packet)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::codec::srt::{handshake::peer_ip, shutdown};

    macro_rules! fixture {
        ($name:literal) => {
            include_bytes!(concat!("../../../tests/fixtures/srt/", $name, ".bin")).as_slice()
        };
    }

    const CALLER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));
    const ORIGIN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const LIMIT: Duration = Duration::from_secs(1);
    const INDUCTION: &[u8] = fixture!("passphrase-induction-caller");
    const INDUCTION_ANSWER: &[u8] = fixture!("passphrase-induction-listener");
    const CONCLUSION: &[u8] = fixture!("passphrase-conclusion-caller");
    const CONCLUSION_ANSWER: &[u8] = fixture!("passphrase-conclusion-listener");
    const OUR_COOKIE: u32 = 0x0BAD_CAFE;

    /// What the recorded caller would have sent to the proxy.
    fn conclusion() -> Packet {
        let mut packet = Packet::copy(CONCLUSION).unwrap();
        packet.set_cookie(OUR_COOKIE);
        packet.set_peer_ip([192, 0, 2, 1].into());
        packet
    }

    fn origin_handshake(now: Instant) -> OriginHandshake {
        OriginHandshake::new(conclusion().as_bytes(), CALLER, ORIGIN, LIMIT, now).unwrap()
    }

    fn sent(origin_handshake: &mut OriginHandshake, now: Instant) -> Vec<u8> {
        match origin_handshake.poll(now) {
            Next::Send(packet) => packet.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_origin_hears_what_the_caller_would_have_said_to_it_and_the_caller_its_answer() {
        let start = Instant::now();
        let mut origin_handshake = origin_handshake(start);
        // The time within the connection is the only thing that differs.
        assert_eq!(sent(&mut origin_handshake, start)[12..], INDUCTION[12..]);
        assert_eq!(origin_handshake.poll(start), Next::Wait(start + RETRANSMIT));

        assert_eq!(origin_handshake.receive(INDUCTION_ANSWER, start + ms(10)), None);
        assert_eq!(sent(&mut origin_handshake, start + ms(10)), CONCLUSION);
        assert_eq!(origin_handshake.poll(start + ms(10)), Next::Wait(start + ms(10) + RETRANSMIT));

        let Some(Answer::Accepted { packet, socket }) = origin_handshake.receive(CONCLUSION_ANSWER, start + ms(20))
        else {
            panic!("not accepted")
        };
        let theirs = Handshake::parse(CONCLUSION_ANSWER).unwrap();
        assert_eq!(socket, theirs.socket_id);
        let expected = Handshake { cookie: OUR_COOKIE, peer_ip: peer_ip(CALLER), ..theirs };
        assert_eq!(packet.as_bytes(), expected.to_bytes());
    }

    #[test]
    fn what_the_origin_does_not_answer_is_sent_again_until_the_step_expires() {
        let start = Instant::now();
        let mut origin_handshake = origin_handshake(start);
        let first = sent(&mut origin_handshake, start);
        for n in 1..4 {
            assert_eq!(origin_handshake.poll(start + ms(250 * n - 1)), Next::Wait(start + ms(250 * n)));
            assert_eq!(sent(&mut origin_handshake, start + ms(250 * n)), first);
        }
        assert_eq!(origin_handshake.poll(start + LIMIT), Next::Expired(Step::Induction));

        // Each step has the limit for itself.
        let mut origin_handshake = self::origin_handshake(start);
        let answered = start + ms(999);
        assert_eq!(origin_handshake.receive(INDUCTION_ANSWER, answered), None);
        for n in 0..4 {
            assert_eq!(sent(&mut origin_handshake, answered + ms(250 * n)), CONCLUSION);
        }
        assert_eq!(origin_handshake.poll(answered + LIMIT), Next::Expired(Step::Conclusion));
    }

    #[test]
    fn the_wait_never_exceeds_what_is_left_of_a_step() {
        let start = Instant::now();
        let limit = ms(100);
        let mut origin_handshake = OriginHandshake::new(conclusion().as_bytes(), CALLER, ORIGIN, limit, start).unwrap();
        sent(&mut origin_handshake, start);
        assert_eq!(origin_handshake.poll(start), Next::Wait(start + limit));
    }

    #[test]
    fn a_second_answer_to_the_induction_changes_the_cookie_and_sends_nothing() {
        let start = Instant::now();
        let mut origin_handshake = origin_handshake(start);
        origin_handshake.receive(INDUCTION_ANSWER, start);
        assert_eq!(sent(&mut origin_handshake, start), CONCLUSION);
        let mut newer = Packet::copy(INDUCTION_ANSWER).unwrap();
        newer.set_cookie(77);
        assert_eq!(origin_handshake.receive(newer.as_bytes(), start + ms(5)), None);
        assert_eq!(origin_handshake.poll(start + ms(5)), Next::Wait(start + RETRANSMIT));
        let again = sent(&mut origin_handshake, start + RETRANSMIT);
        assert_eq!(Handshake::parse(&again).unwrap().cookie, 77);
    }

    #[test]
    fn a_rejection_reaches_the_caller_at_either_step() {
        let start = Instant::now();
        let caller = conclusion();
        let rejection = Handshake::parse(caller.as_bytes()).unwrap().rejection(Reason::FORBIDDEN, 5);
        for inducted in [false, true] {
            let mut origin_handshake = origin_handshake(start);
            if inducted {
                origin_handshake.receive(INDUCTION_ANSWER, start);
            }
            let Some(Answer::Rejected { packet, reason }) = origin_handshake.receive(&rejection, start) else {
                panic!("not rejected")
            };
            assert_eq!(reason, Reason::FORBIDDEN);
            let read = Handshake::parse(packet.as_bytes()).unwrap();
            assert_eq!((read.cookie, read.peer_ip), (OUR_COOKIE, peer_ip(CALLER)));
        }
    }

    #[test]
    fn what_does_not_belong_to_the_handshake_changes_nothing() {
        let start = Instant::now();
        let mut origin_handshake = origin_handshake(start);
        sent(&mut origin_handshake, start);
        let mut for_another = Packet::copy(INDUCTION_ANSWER).unwrap();
        for_another.set_destination(1);
        let own_socket = Handshake::parse(CONCLUSION).unwrap().socket_id;
        for packet in [
            &[][..],
            &INDUCTION_ANSWER[..63],
            for_another.as_bytes(),
            &shutdown(own_socket, 0),
            // Too early.
            CONCLUSION_ANSWER,
        ] {
            assert_eq!(origin_handshake.receive(packet, start), None);
            assert_eq!(origin_handshake.poll(start), Next::Wait(start + RETRANSMIT));
        }
        origin_handshake.receive(INDUCTION_ANSWER, start);
        // Socket 0 takes no packets.
        let no_socket = Handshake { socket_id: 0, ..Handshake::parse(CONCLUSION_ANSWER).unwrap() };
        assert_eq!(origin_handshake.receive(&no_socket.to_bytes(), start), None);
        assert!(origin_handshake.receive(CONCLUSION_ANSWER, start).is_some());
    }

    #[test]
    fn an_origin_of_the_other_family_hears_its_own_address() {
        let origin: IpAddr = "2001:db8::7".parse().unwrap();
        let mut origin_handshake =
            OriginHandshake::new(conclusion().as_bytes(), CALLER, origin, LIMIT, Instant::now()).unwrap();
        let packet = sent(&mut origin_handshake, Instant::now());
        assert_eq!(Handshake::parse(&packet).unwrap().peer_ip, peer_ip(origin));
    }
}
