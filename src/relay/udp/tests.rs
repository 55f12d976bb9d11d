use std::time::Duration;

use tokio::time::timeout;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

fn bound(address: &str) -> Arc<Socket> {
    Arc::new(Socket::new(UdpSocket::bind(address).unwrap()).unwrap())
}

/// Takes `count` datagrams, each with the path that it came by.
async fn take(reader: &Reader, count: usize) -> Vec<(Path, Vec<u8>)> {
    let mut taken = Vec::new();
    timeout(LIMIT, async {
        while taken.len() < count {
            let add = |received: Received<'_>| taken.extend(received.datagrams().map(|d| (received.path, d.to_vec())));
            reader.receive(add).await.unwrap();
        }
    })
    .await
    .unwrap();
    taken
}

#[tokio::test]
async fn datagrams_of_all_sizes_arrive_as_they_were_sent_the_empty_one_too() {
    let listener = bound("127.0.0.1:0");
    let reader = Reader::new(Arc::clone(&listener)).unwrap();
    let client = Socket::connect(listener.local_addr().unwrap()).unwrap();
    let sent: Vec<Vec<u8>> = [0, 1, 1200, 1200, 7, 65_507].map(|size| vec![size as u8; size]).into();
    for datagram in &sent {
        client.send(datagram).unwrap();
    }
    let taken = take(&reader, sent.len()).await;
    assert!(taken.iter().all(|(path, _)| path.peer.port() == client.local_addr().unwrap().port()));
    assert_eq!(taken.into_iter().map(|(_, datagram)| datagram).collect::<Vec<_>>(), sent);
}

#[tokio::test]
async fn an_answer_comes_from_the_address_that_the_client_used() {
    let listener = bound("0.0.0.0:0");
    let reader = Reader::new(Arc::clone(&listener)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for local in ["127.0.0.1", "127.0.0.2", "127.1.2.3"] {
        // A connected socket gets nothing from any other address.
        let client = Arc::new(Socket::connect((local.parse::<IpAddr>().unwrap(), port).into()).unwrap());
        client.send(b"question").unwrap();
        let (path, _) = take(&reader, 1).await.remove(0);
        listener.send_to(b"answer", path).unwrap();
        assert_eq!(take(&Reader::new(client).unwrap(), 1).await[0].1, b"answer");
    }
}

#[tokio::test]
async fn one_dual_stack_socket_serves_clients_of_both_families() {
    let listener = bound("[::]:0");
    let reader = Reader::new(Arc::clone(&listener)).unwrap();
    let port = listener.local_addr().unwrap().port();
    for local in ["127.0.0.1", "127.0.0.2", "::1"] {
        let client = Arc::new(Socket::connect((local.parse::<IpAddr>().unwrap(), port).into()).unwrap());
        client.send(b"question").unwrap();
        let (path, _) = take(&reader, 1).await.remove(0);
        assert_eq!(path.to_string(), client.local_addr().unwrap().to_string());
        listener.send_to(b"answer", path).unwrap();
        assert_eq!(take(&Reader::new(client).unwrap(), 1).await[0].1, b"answer");
    }
}

/// Sends to a path those datagrams whose first byte is its number.
struct ByFirstByte(Vec<Path>);

impl Flow for ByFirstByte {
    fn route(&mut self, datagram: &[u8]) -> Option<Path> {
        self.0.get(usize::from(*datagram.first()?)).copied()
    }
}

#[tokio::test]
async fn what_an_origin_sends_reaches_the_clients_whole_and_in_order_whatever_is_sent_together() {
    let (out, origin) = (bound("0.0.0.0:0"), bound("127.0.0.1:0"));
    let clients = [bound("127.0.0.1:0"), bound("127.0.0.1:0")];
    let paths = clients.each_ref().map(|c| Path { peer: c.local_addr().unwrap(), local: None });
    let leg = Arc::new(Socket::connect(origin.local_addr().unwrap()).unwrap());
    let to_leg = Path { peer: leg.local_addr().unwrap(), local: None };
    // Bursts of equal size, shorter and longer ends, two clients in turn, one for nobody.
    let sizes = [1200, 1200, 1200, 900, 1200, 1200, 1300, 1, 1, 1200, 50, 1200, 1200, 0];
    let sent: Vec<Vec<u8>> = (0..60)
        .map(|n: usize| {
            let mut datagram = vec![n as u8; sizes[n % sizes.len()]];
            if let Some(first) = datagram.first_mut() {
                *first = [0, 0, 0, 0, 0, 1, 1, 9][n / 3 % 8];
            }
            datagram
        })
        .collect();
    for datagram in &sent {
        origin.send_to(datagram, to_leg).unwrap();
    }
    let reader = Reader::new(leg).unwrap();
    let mut flow = ByFirstByte(paths.into());
    let mut done = Forwarded::default();
    while done.packets < sent.len() as u64 {
        let Forwarded { packets, bytes, unsent } =
            timeout(LIMIT, forward(&reader, &out, &mut flow)).await.unwrap().unwrap();
        (done.packets, done.bytes, done.unsent) = (done.packets + packets, done.bytes + bytes, done.unsent + unsent);
    }
    let bytes = sent.iter().map(Vec::len).sum::<usize>() as u64;
    assert_eq!(done, Forwarded { packets: sent.len() as u64, bytes, unsent: 0 });
    for (n, client) in clients.into_iter().enumerate() {
        let wanted: Vec<_> = sent.iter().filter(|d| d.first() == Some(&(n as u8))).cloned().collect();
        let taken = take(&Reader::new(client).unwrap(), wanted.len()).await;
        assert_eq!(taken.into_iter().map(|(_, datagram)| datagram).collect::<Vec<_>>(), wanted);
    }
}

#[tokio::test]
async fn an_origin_at_which_nobody_listens_is_told_and_what_follows_is_still_read() {
    let origin = bound("127.0.0.1:0");
    let address = origin.local_addr().unwrap();
    drop(origin);
    let leg = Arc::new(Socket::connect(address).unwrap());
    leg.send(b"anybody?").unwrap();
    let reader = Reader::new(Arc::clone(&leg)).unwrap();
    let mut flow = ByFirstByte(Vec::new());
    let out = bound("127.0.0.1:0");
    let error = timeout(LIMIT, forward(&reader, &out, &mut flow)).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);

    let origin = Socket::new(UdpSocket::bind(address).unwrap()).unwrap();
    origin.send_to(b"\xffhere", Path { peer: leg.local_addr().unwrap(), local: None }).unwrap();
    let done = timeout(LIMIT, forward(&reader, &out, &mut flow)).await.unwrap().unwrap();
    assert_eq!(done, Forwarded { packets: 1, bytes: 5, unsent: 0 });
}
