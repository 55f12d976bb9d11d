//! How placements follow the fate of their origins.

use std::{collections::BTreeMap, sync::Arc};

use srs_proxy::{
    balancer::{BalancerError, DEFAULT_BACKEND_PREFIX, Intent, Lease, OriginState, PlaceRequest, Reachability},
    origin::{Endpoint, Origin, OriginId, Protocol},
};

use super::{Cluster, Fixture, origin, place, request, restarted, stream};

pub async fn a_stream_on_an_origin_that_failed_moves_at_the_next_request<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.fail(&first.origin.id()).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_ne!(second.origin.id(), first.origin.id());
    assert!(second.epoch > first.epoch);
    cluster.assert_placed(&second).await;
}

pub async fn streams_on_other_origins_stay_when_one_fails<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let mut placed = Vec::new();
    for i in 0..15 {
        placed.push(place(cluster.node(i), &stream(&format!("s{i}"))).await);
    }
    let failed = placed[0].origin.id();
    cluster.fail(&failed).await;
    for (i, before) in placed.iter().enumerate() {
        let after = place(cluster.node(i + 1), &before.stream).await;
        assert_ne!(after.origin.id(), failed, "{}", before.stream);
        if before.origin.id() != failed {
            assert_eq!((after.origin.id(), after.epoch), (before.origin.id(), before.epoch));
        }
    }
}

pub async fn suspect_origins_are_used_when_nothing_else_is_left<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    cluster.fail(&origin(1).id()).await;
    cluster.fail(&origin(2).id()).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.assert_placed(&first).await;
}

pub async fn a_stream_stays_on_a_suspect_origin_when_nothing_else_is_left<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.fail(&origin(1).id()).await;
    cluster.fail(&origin(2).id()).await;
    for _ in 0..10 {
        cluster.assert_placed(&first).await;
    }
    // The other one recovers, and is better than a suspect one.
    let other = if first.origin.id() == origin(1).id() { origin(2) } else { origin(1) };
    cluster.node(1).report(&other.id(), Reachability::Reached).await;
    cluster.until_state(&other.id(), OriginState::Live).await;
    let second = place(cluster.node(2), &first.stream).await;
    assert_eq!(second.origin.id(), other.id());
    assert!(second.epoch > first.epoch);
}

pub async fn a_suspicion_ends_with_a_connection<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let id = origin(1).id();
    cluster.fail(&id).await;
    let statuses = cluster.node(1).origins().await.unwrap();
    assert!(statuses[0].suspect_reason.as_ref().is_some_and(|r| r.contains("connection refused")), "{statuses:?}");
    cluster.node(1).report(&id, Reachability::Reached).await;
    cluster.until_state(&id, OriginState::Live).await;
    assert_eq!(cluster.node(0).origins().await.unwrap()[0].suspect_reason, None);
}

pub async fn a_suspicion_ends_with_a_heartbeat<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    cluster.fail(&origin(1).id()).await;
    cluster.node(0).register(origin(1)).await.unwrap();
    cluster.until_state(&origin(1).id(), OriginState::Live).await;
}

pub async fn a_refresh_of_the_configured_backend_does_not_end_a_suspicion<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let mut backend = origin(2);
    backend.server_id = format!("{DEFAULT_BACKEND_PREFIX}x");
    cluster.register(backend.clone()).await;
    cluster.fail(&backend.id()).await;
    cluster.fail(&origin(1).id()).await;
    cluster.node(0).register(backend.clone()).await.unwrap();
    cluster.node(0).register(origin(1)).await.unwrap();
    // By then the refresh, which was sent before, is known as well.
    cluster.until_state(&origin(1).id(), OriginState::Live).await;
    cluster.until_state(&backend.id(), OriginState::Suspect).await;
    for i in 0..20 {
        let placed = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        assert_eq!(placed.origin.id(), origin(1).id());
    }
}

pub async fn a_report_on_an_unknown_origin_changes_nothing<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(1).await;
    let first = place(cluster.node(0), &stream("s")).await;
    for node in &cluster.nodes {
        node.report(&OriginId::from("no-such-origin"), Reachability::Failed("refused".into())).await;
        node.report(&OriginId::from("no-such-origin"), Reachability::Reached).await;
    }
    cluster.until_registered(&[origin(1).id()]).await;
    cluster.assert_placed(&first).await;
}

pub async fn an_avoided_origin_is_never_given<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(3).await;
    let avoid = [origin(1).id(), origin(3).id()];
    for i in 0..20 {
        let key = stream(&format!("s{i}"));
        let before = place(cluster.node(i), &key).await;
        let after = cluster.node(i + 1).place(request(&key, &avoid)).await.unwrap();
        assert_eq!(after.origin.id(), origin(2).id());
        assert_eq!(after.epoch > before.epoch, before.origin.id() != origin(2).id());
        cluster.assert_placed(&after).await;
    }
}

pub async fn an_avoided_origin_is_not_given_as_the_last_resort<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let other = if first.origin.id() == origin(1).id() { origin(2).id() } else { origin(1).id() };
    cluster.fail(&first.origin.id()).await;
    cluster.fail(&other).await;
    let avoid = [first.origin.id()];
    let second = cluster.node(1).place(request(&first.stream, &avoid)).await.unwrap();
    assert_eq!(second.origin.id(), other);
    let avoid = [first.origin.id(), other];
    let error = cluster.node(2).place(request(&first.stream, &avoid)).await.unwrap_err();
    assert_eq!(error, BalancerError::NoOrigin { protocol: Protocol::Rtmp, registered: 2 });
    cluster.assert_placed(&second).await;
}

pub async fn a_restarted_origin_replaces_its_old_self<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    cluster.register(origin(1)).await;
    let first = place(cluster.node(0), &stream("s")).await;
    // At another address: a container that was started again.
    let mut next = restarted(origin(1));
    next.ip = "10.0.9.9".into();
    cluster.register(next.clone()).await;
    cluster.until_registered(&[next.id()]).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_eq!(second.origin.id(), next.id());
    assert!(second.epoch > first.epoch);
    cluster.assert_placed(&second).await;
}

pub async fn an_origin_at_the_address_of_another_replaces_it<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    cluster.register(origin(1)).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let mut next = origin(2);
    next.ip.clone_from(&first.origin.ip);
    cluster.register(next.clone()).await;
    cluster.until_registered(&[next.id()]).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_eq!(second.origin.id(), next.id());
    assert!(second.epoch > first.epoch);
}

pub async fn live_origins_with_one_server_id_are_both_kept<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let one = origin(1);
    let mut clone = restarted(origin(2));
    clone.server_id.clone_from(&one.server_id);
    cluster.register(one.clone()).await;
    cluster.register(clone.clone()).await;
    cluster.until_registered(&[clone.id()]).await;
    // The first one is alive after all.
    for _ in 0..3 {
        cluster.register(one.clone()).await;
        cluster.register(clone.clone()).await;
        cluster.until_registered(&[one.id(), clone.id()]).await;
    }
}

pub async fn an_origin_without_heartbeats_expires_and_its_streams_move<F: Fixture>() {
    let mut cluster = Cluster::<F>::start().await;
    cluster.register(origin(1)).await;
    let first = place(cluster.node(0), &stream("s")).await;
    cluster.keep_registered(origin(2)).await;
    cluster.fixture.elapse(cluster.fixture.origin_ttl() / 2).await;
    for node in &cluster.nodes {
        assert_eq!(node.origins().await.unwrap().len(), 2);
    }
    cluster.fixture.elapse(cluster.fixture.origin_ttl() * 3 / 4).await;
    cluster.until_registered(&[origin(2).id()]).await;
    let second = place(cluster.node(1), &first.stream).await;
    assert_eq!(second.origin.id(), origin(2).id());
    assert!(second.epoch > first.epoch);
}

pub async fn a_heartbeat_keeps_an_origin_and_its_streams<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(2).await;
    let first = place(cluster.node(0), &stream("s")).await;
    let _used = Lease::new(Arc::clone(cluster.node(0)), first.clone(), Intent::Publish);
    cluster.fixture.elapse(cluster.fixture.origin_ttl() * 2).await;
    cluster.assert_placed(&first).await;
    let ttl = cluster.fixture.origin_ttl();
    cluster.until("heartbeats are young", |origins| origins.iter().all(|o| o.heartbeat_age < ttl)).await;
}

pub async fn without_an_origin_the_error_says_what_was_wanted<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let key = stream("s");
    for node in &cluster.nodes {
        let error = node.place(request(&key, &[])).await.unwrap_err();
        assert_eq!(error, BalancerError::NoOrigin { protocol: Protocol::Rtmp, registered: 0 });
    }
    cluster.register(origin(1)).await;
    for node in &cluster.nodes {
        let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
        let error = node.place(wanted).await.unwrap_err();
        assert_eq!(error, BalancerError::NoOrigin { protocol: Protocol::Srt, registered: 1 });
    }
    cluster.until_placements(0).await;
    place(cluster.node(1), &key).await;
}

pub async fn only_origins_that_serve_the_protocol_are_given<F: Fixture>() {
    let mut cluster = Cluster::<F>::with_origins(3).await;
    let mut with_srt = origin(4);
    with_srt.srt = vec![Endpoint::parse("10080").unwrap()];
    cluster.keep_registered(with_srt.clone()).await;
    for i in 0..20 {
        let key = stream(&format!("s{i}"));
        let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
        assert_eq!(cluster.node(i).place(wanted).await.unwrap().origin.id(), with_srt.id());
    }
    // Better a suspect one that serves it than a live one that does not.
    cluster.fail(&with_srt.id()).await;
    let key = stream("last");
    let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
    assert_eq!(cluster.node(0).place(wanted).await.unwrap().origin.id(), with_srt.id());
}

pub async fn a_stream_moves_when_its_origin_no_longer_serves_the_protocol<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    let with_srt = |n| Origin { srt: vec![Endpoint::parse("10080").unwrap()], ..origin(n) };
    cluster.register(with_srt(1)).await;
    let key = stream("s");
    let wanted = PlaceRequest { protocol: Protocol::Srt, ..request(&key, &[]) };
    let first = cluster.node(0).place(wanted).await.unwrap();
    cluster.register(with_srt(2)).await;
    cluster.register(origin(1)).await;
    cluster
        .until("origin 1 has no SRT", |origins| {
            origins.iter().any(|o| o.origin.id() == origin(1).id() && !o.origin.serves(Protocol::Srt))
        })
        .await;
    let second = cluster.node(1).place(wanted).await.unwrap();
    assert_eq!(second.origin.id(), origin(2).id());
    assert!(second.epoch > first.epoch);
}

pub async fn fresh_streams_are_spread_over_the_origins<F: Fixture>() {
    let cluster = Cluster::<F>::with_origins(4).await;
    let mut counts: BTreeMap<OriginId, usize> = BTreeMap::new();
    for i in 0..200 {
        let placed = place(cluster.node(i), &stream(&format!("s{i}"))).await;
        *counts.entry(placed.origin.id()).or_default() += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|n| *n >= 20), "{counts:?}");
    cluster
        .until("origins count their streams", |origins| {
            origins.iter().all(|o| counts.get(&o.origin.id()) == Some(&o.streams))
        })
        .await;
}

pub async fn every_node_is_ready<F: Fixture>() {
    let cluster = Cluster::<F>::start().await;
    for node in &cluster.nodes {
        assert_eq!(node.ready().await, Ok(()));
    }
}
