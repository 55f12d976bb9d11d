use proptest::prelude::*;

use super::*;
use crate::codec::stun::{BINDING, attribute};

const MEDIA: &[u8] = &[0x80; 1200];

fn path(port: u16) -> Path {
    Path { peer: ([127, 0, 0, 1], port).into(), local: None }
}

fn message(class: Class, transaction: u8, nominates: bool) -> Vec<u8> {
    let nomination: &[stun::Attribute<'_>] = &[(attribute::USE_CANDIDATE, &[])];
    stun::write(class, BINDING, [transaction; 12], if nominates { nomination } else { &[] }).unwrap()
}

struct Client {
    peers: Peers,
    now: Instant,
    transaction: u8,
}

impl Client {
    fn new() -> Self {
        Self { peers: Peers::default(), now: Instant::now(), transaction: 0 }
    }

    fn request(&mut self, port: u16, nominates: bool) -> u8 {
        self.transaction = self.transaction.wrapping_add(1);
        let request = message(Class::Request, self.transaction, nominates);
        self.peers.request(path(port), &Message::parse(&request).unwrap(), request.len(), self.now);
        self.transaction
    }

    fn answer(&mut self, class: Class, transaction: u8) -> Route {
        self.peers.way(&message(class, transaction, false), self.now)
    }

    /// A request that the origin grants.
    fn prove(&mut self, port: u16, nominates: bool) {
        let transaction = self.request(port, nominates);
        assert_eq!(self.answer(Class::Success, transaction), Route::To(path(port)));
    }

    fn media(&mut self) -> Route {
        self.peers.way(MEDIA, self.now)
    }

    fn send(&mut self, port: u16) {
        self.peers.other(path(port), 100, self.now);
    }
}

#[test]
fn before_the_client_has_shown_where_it_is_nothing_is_sent() {
    assert_eq!(Client::new().media(), Route::Unknown);
}

#[test]
fn an_address_gets_no_more_than_it_has_sent_until_the_origin_has_granted_its_request() {
    let mut client = Client::new();
    for _ in 0..20 {
        client.request(1, true);
    }
    let sent = 20 * message(Class::Request, 0, true).len();
    let mut got = 0;
    while client.peers.way(&MEDIA[..60], client.now) == Route::To(path(1)) {
        got += 60;
    }
    assert!(got <= sent && got + 60 > sent, "{got} of {sent}");
    assert_eq!(client.media(), Route::Unproven);
    client.prove(1, true);
    assert_eq!(client.media(), Route::To(path(1)));
}

#[test]
fn an_answer_goes_to_where_its_request_came_from_even_if_media_go_elsewhere() {
    let mut client = Client::new();
    client.prove(1, true);
    let other = client.request(2, false);
    assert_eq!(client.media(), Route::To(path(1)));
    assert_eq!(client.answer(Class::Success, other), Route::To(path(2)));
    assert_eq!(client.media(), Route::To(path(1)), "it was not nominated");
}

#[test]
fn media_follow_the_nomination() {
    let mut client = Client::new();
    client.prove(1, true);
    client.prove(2, false);
    client.prove(2, true);
    assert_eq!(client.media(), Route::To(path(2)));
}

#[test]
fn a_refused_request_proves_nothing_and_moves_nobody() {
    let mut client = Client::new();
    client.prove(1, true);
    client.now += 10 * SILENCE_BEFORE_SWITCH;
    let transaction = client.request(2, true);
    assert_eq!(client.answer(Class::Error, transaction), Route::To(path(2)), "the sender learns of it");
    client.send(2);
    assert_eq!(client.media(), Route::To(path(1)));
}

#[test]
fn a_client_that_has_left_its_old_address_is_followed_without_a_nomination() {
    let mut client = Client::new();
    client.prove(1, true);
    client.now += SILENCE_BEFORE_SWITCH;
    client.prove(2, false);
    assert_eq!(client.media(), Route::To(path(2)));
}

#[test]
fn a_client_that_returns_to_a_proven_address_is_followed_by_its_media() {
    let mut client = Client::new();
    client.prove(1, true);
    client.prove(2, true);
    client.send(1);
    assert_eq!(client.media(), Route::To(path(2)), "the current one is not silent");
    client.now += SILENCE_BEFORE_SWITCH;
    client.send(1);
    assert_eq!(client.media(), Route::To(path(1)));
}

#[test]
fn an_answer_to_nothing_that_was_asked_goes_to_the_client() {
    let mut client = Client::new();
    client.prove(1, true);
    assert_eq!(client.answer(Class::Success, 200), Route::To(path(1)));
    assert_eq!(client.answer(Class::Request, 201), Route::To(path(1)), "the origin checks, too");
}

#[test]
fn silence_is_counted_from_what_came_last_from_anywhere() {
    let mut client = Client::new();
    assert_eq!(client.peers.heard(), None);
    client.prove(1, true);
    let first = client.now;
    client.now += SILENCE_BEFORE_SWITCH;
    client.send(2);
    assert_eq!(client.peers.heard(), Some(first + SILENCE_BEFORE_SWITCH));
}

proptest! {
    #[test]
    fn whatever_comes_memory_is_bounded_and_unproven_addresses_get_no_more_than_they_sent(
        steps in prop::collection::vec((0_u16..40, 0_u8..5, any::<bool>(), 0_u64..500), 1..300),
    ) {
        let mut client = Client::new();
        let mut proven = std::collections::HashSet::new();
        let (mut sent, mut got) = (std::collections::HashMap::new(), std::collections::HashMap::new());
        let size = message(Class::Request, 0, false).len();
        for (port, what, flag, millis) in steps {
            client.now += Duration::from_millis(millis);
            let way = match what {
                0 => {
                    client.request(port, flag);
                    *sent.entry(path(port)).or_insert(0) += message(Class::Request, 0, flag).len();
                    continue;
                }
                1 => {
                    client.send(port);
                    *sent.entry(path(port)).or_insert(0) += 100;
                    continue;
                }
                2 => {
                    let pending = client.peers.pending.iter().find(|p| p.transaction == [client.transaction; 12]);
                    let proves = pending.map(|p| p.path).filter(|p| client.peers.knows(*p));
                    let way = client.answer(Class::Success, client.transaction);
                    proven.extend(proves);
                    way
                }
                3 => client.answer(Class::Error, client.transaction),
                _ => client.media(),
            };
            if let Route::To(to) = way && !proven.contains(&to) {
                let got = got.entry(to).or_insert(0);
                *got += if what == 4 { MEDIA.len() } else { size };
                prop_assert!(*got <= sent.get(&to).copied().unwrap_or(0));
            }
            prop_assert!(client.peers.known.len() <= MAX_PEERS && client.peers.pending.len() <= MAX_PENDING);
        }
    }
}
