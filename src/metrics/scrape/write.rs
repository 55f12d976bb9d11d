//! The names of all metrics and what they mean. `docs/operate/metrics.md` repeats them for users.

use std::{fmt, time::Duration};

use prometheus_client::{
    encoding::DescriptorEncoder,
    metrics::{counter::Counter, info::Info},
};

use super::Found;
use crate::{
    balancer::{
        CallOutcome, MemberStatus, OriginState, OriginStatus,
        mesh::{model::member::NodeState, status::Traffic},
    },
    metrics::{
        families::{Families, bytes, plain, seconds},
        label::{Direction, Labels, Pairs, Table},
        process::Process,
    },
    session::{Delivery, Moved, Role},
};

/// Writes everything.
pub(super) fn write(found: &Found, encoder: DescriptorEncoder<'_>) -> fmt::Result {
    let mut out = Families(encoder);
    node(found, &mut out)?;
    sessions(found, &mut out)?;
    clients(found, &mut out)?;
    origins(found, &mut out)?;
    placements(found, &mut out)?;
    mesh(found, &mut out)?;
    found.process.as_ref().map_or(Ok(()), |process| write_process(process, &mut out))
}

fn node(found: &Found, out: &mut Families<'_>) -> fmt::Result {
    let build: Pairs = vec![("version", env!("CARGO_PKG_VERSION")), ("balancer", found.kind.as_str())];
    out.metric(
        plain("srs_proxy_build", "The version of the program, and what its nodes agree through."),
        &Info::new(build),
    )?;
    let ready = found.serving && !found.draining && found.available;
    out.gauge(
        plain("srs_proxy_ready", "Whether this node takes new sessions and can place their streams."),
        u32::from(ready),
    )?;
    out.gauge(
        plain("srs_proxy_draining", "Whether this node takes no more sessions because it is to end."),
        u32::from(found.draining),
    )?;
    out.gauge(
        plain(
            "srs_proxy_balancer_available",
            "Whether streams can be placed; 0 also while Redis is away or the node joins the mesh.",
        ),
        u32::from(found.available),
    )?;
    let incomplete = found.incomplete.iter().map(|(labels, missing)| (labels, u32::from(*missing)));
    out.gauges(
        plain(
            "srs_proxy_scrape_incomplete",
            "Whether a part of this answer is missing because it could not be had, or not in time.",
        ),
        incomplete,
    )
}

fn sessions(found: &Found, out: &mut Families<'_>) -> fmt::Result {
    let moved = &found.totals.moved;
    out.gauges(
        plain("srs_proxy_sessions", "Sessions of clients that are there."),
        moved.iter().map(|(labels, m)| (labels, m.live)),
    )?;
    out.counters(
        plain(
            "srs_proxy_sessions_started",
            "Sessions of clients that have begun. One counts once its role is known, or as unknown once it has ended.",
        ),
        moved.iter().map(|(labels, m)| (labels, m.started)),
    )?;
    out.counters(
        bytes(
            "srs_proxy_session",
            "Bytes that came from clients and from origins, those of running sessions included.",
        ),
        moved_bytes(moved, &found.metrics.inner.http.pieces),
    )?;
    out.counters(
        plain(
            "srs_proxy_session_packets",
            "Datagrams that came from clients and from origins by WebRTC and SRT, those of running sessions included.",
        ),
        moved_packets(moved),
    )?;
    out.counters(
        plain("srs_proxy_session_ends", "Sessions that have ended, by the side that ended them and how."),
        found.totals.ends.iter().map(|(labels, n)| (labels, *n)),
    )?;
    out.counter(
        plain("srs_proxy_session_moves", "Sessions that ended because their stream had moved to another origin."),
        found.metrics.inner.session_moves.get(),
    )
}

/// What sessions have moved, and requests that are no sessions of their own.
fn moved_bytes(
    moved: &Table<(Delivery, (Role,)), Moved>,
    pieces: &Table<(Delivery, (Direction,)), Counter>,
) -> Vec<(Pairs, u64)> {
    let mut all: Table<(Delivery, (Role, (Direction,))), u64> = Table::default();
    for delivery in Delivery::ALL {
        for role in Role::ALL {
            let Moved { from_client, from_origin, .. } = *moved.at((delivery, (role,)));
            *all.at_mut((delivery, (role, (Direction::FromClient,)))) += from_client;
            *all.at_mut((delivery, (role, (Direction::FromOrigin,)))) += from_origin;
        }
        for direction in [Direction::FromClient, Direction::FromOrigin] {
            *all.at_mut((delivery, (Role::Play, (direction,)))) += pieces.at((delivery, (direction,))).get();
        }
    }
    all.iter().map(|(labels, n)| (labels, *n)).collect()
}

fn moved_packets(moved: &Table<(Delivery, (Role,)), Moved>) -> Vec<(Pairs, u64)> {
    let mut all = Vec::new();
    for delivery in Delivery::DATAGRAMS {
        for role in Role::ALL {
            let Moved { packets_from_client, packets_from_origin, .. } = *moved.at((delivery, (role,)));
            for (direction, packets) in
                [(Direction::FromClient, packets_from_client), (Direction::FromOrigin, packets_from_origin)]
            {
                all.push((
                    <(Delivery, (Role, (Direction,)))>::pairs((delivery, (role, (direction,))).index()),
                    packets,
                ));
            }
        }
    }
    all
}

fn clients(found: &Found, out: &mut Families<'_>) -> fmt::Result {
    let counted = &found.metrics.inner;
    out.table(plain("srs_proxy_connections", "Connections of clients that are open."), &counted.connections)?;
    out.table(plain("srs_proxy_connections_accepted", "Connections of clients that were taken."), &counted.accepted)?;
    out.table(
        plain("srs_proxy_connections_refused", "Connections of clients that were refused because a limit was reached."),
        &counted.refused,
    )?;
    out.table(
        plain("srs_proxy_datagrams_dropped", "Datagrams of WebRTC and SRT that were dropped, by the reason."),
        &counted.datagrams_dropped,
    )?;
    out.table(
        plain("srs_proxy_http_requests", "HTTP requests that were answered, by the class of the status."),
        &counted.requests,
    )?;
    out.table(
        seconds("srs_proxy_http_answer", "Time from the first byte of a request to the header of its answer."),
        &counted.answers,
    )?;
    out.table(plain("srs_proxy_http_playlists", "Playlists that origins sent."), &counted.http.playlists)?;
    out.counter(
        plain("srs_proxy_http_retries", "HTTP requests that were sent to another origin because one failed."),
        counted.http.retries.get(),
    )?;
    out.table(plain("srs_proxy_heartbeats", "Heartbeats of origins."), &counted.heartbeats)
}

fn origins(found: &Found, out: &mut Families<'_>) -> fmt::Result {
    let counted = &found.metrics.inner;
    out.table(
        plain(
            "srs_proxy_origin_connects",
            "Attempts to connect to an origin; for RTMP the handshake is a part of them.",
        ),
        &counted.origin_connects,
    )?;
    out.table(
        seconds("srs_proxy_origin_connect", "Time that successful attempts to connect to an origin took."),
        &counted.origin_connect,
    )?;
    out.table(
        plain(
            "srs_proxy_origin_requests",
            "What origins were asked, up to publish or play for RTMP, up to the header of the answer for HTTP.",
        ),
        &counted.origin_requests,
    )?;
    out.table(
        seconds("srs_proxy_origin_answer", "Time that origins took to answer, connecting included."),
        &counted.origin_answer,
    )?;
    out.table(plain("srs_proxy_origin_reports", "What sessions and probes saw of origins."), &counted.reports)?;

    let Some(origins) = &found.origins else { return Ok(()) };
    let states = [OriginState::Live, OriginState::Suspect];
    let of = |state| origins.iter().filter(move |origin: &&OriginStatus| origin.state == state);
    let label = |state: OriginState| vec![("state", state.as_str())];
    out.gauges(
        plain("srs_proxy_origins", "Registered origins."),
        states.map(|state| (label(state), of(state).count())),
    )?;
    let oldest = |state| of(state).map(|origin| origin.heartbeat_age).max().unwrap_or(Duration::ZERO).as_secs_f64();
    out.gauges(
        seconds(
            "srs_proxy_origin_heartbeat_age",
            "Time since the last heartbeat of the origin that has been silent the longest; 0 if there is none.",
        ),
        states.map(|state| (label(state), oldest(state))),
    )?;
    let streams = || origins.iter().map(|origin| origin.streams);
    let bounds = [("min", streams().min()), ("max", streams().max())];
    out.gauges(
        plain(
            "srs_proxy_origin_streams",
            "Streams on the origin that has the fewest, and on the one that has the most; 0 if there is none.",
        ),
        bounds.map(|(bound, n)| (vec![("bound", bound)], n.unwrap_or(0))),
    )
}

fn placements(found: &Found, out: &mut Families<'_>) -> fmt::Result {
    let counted = &found.metrics.inner;
    out.table(plain("srs_proxy_places", "Questions of sessions on which origin a stream is."), &counted.places)?;
    out.table(seconds("srs_proxy_place", "Time to find or choose the origin of a stream."), &counted.place)?;
    out.table(
        plain("srs_proxy_failovers", "Sessions that were given another origin because one had failed them."),
        &counted.failovers,
    )?;
    if let Some(placements) = found.placements {
        out.gauge(plain("srs_proxy_placements", "Streams that are placed in the cluster."), placements)?;
    }
    if let Some(calls) = &found.calls {
        out.counters(
            plain("srs_proxy_balancer_calls", "Questions to Redis or to other nodes of the mesh."),
            CallOutcome::ALL.map(|outcome| (vec![("outcome", outcome.as_str())], calls.count(outcome))),
        )?;
        out.metric(
            seconds("srs_proxy_balancer_call", "Time that Redis or another node took to answer."),
            calls.latency(),
        )?;
    }
    Ok(())
}

fn mesh(found: &Found, out: &mut Families<'_>) -> fmt::Result {
    let Some(cluster) = &found.cluster else { return Ok(()) };
    out.gauge(
        plain("srs_proxy_mesh_stable", "Whether all nodes of the mesh see the same nodes serve."),
        u32::from(cluster.stable),
    )?;
    let seen = [("true", true), ("false", false)];
    let states = [NodeState::Joining, NodeState::Serving, NodeState::Draining, NodeState::Left];
    let members = states.into_iter().flat_map(|state| {
        seen.map(|(word, live)| {
            let count = cluster.members.iter().filter(|member| member.state == state && member.live == live).count();
            (vec![("state", state.as_str()), ("live", word)], count)
        })
    });
    out.gauges(plain("srs_proxy_mesh_members", "Nodes of the mesh that this node knows, itself included."), members)?;
    let live = || cluster.members.iter().filter(|member: &&MemberStatus| member.live);
    out.gauge(
        plain("srs_proxy_mesh_disagreeing_members", "Nodes that see other nodes serve than this node does."),
        live().filter(|member| !member.same_view).count(),
    )?;
    let lag = live().map(|member| member.lag).max().unwrap_or(Duration::ZERO);
    out.gauge(
        seconds(
            "srs_proxy_mesh_lag",
            "Time since the last sign of life of the live node that has been silent the longest.",
        ),
        lag.as_secs_f64(),
    )?;
    let homes: usize =
        cluster.members.iter().filter(|member| member.node == cluster.node).map(|member| member.homes).sum();
    out.gauge(plain("srs_proxy_mesh_homes", "Streams for which this node answers."), homes)?;
    out.gauge(plain("srs_proxy_mesh_conflicts", "Streams that are on two origins now."), cluster.conflicts)?;

    let counters = &cluster.counters;
    for (name, help, value) in [
        ("srs_proxy_mesh_placed", "Streams that this node placed, as their home.", counters.placed),
        ("srs_proxy_mesh_moved", "Streams that this node moved to another origin.", counters.moved),
        ("srs_proxy_mesh_adopted", "Placements that this node took over from another home.", counters.adopted),
        ("srs_proxy_mesh_conflicts_resolved", "Conflicts that this node settled.", counters.conflicts),
        ("srs_proxy_mesh_claims", "Decisions before which this node asked all others.", counters.claims),
        ("srs_proxy_mesh_claims_lost", "Claims that this node lost to another.", counters.claims_lost),
        ("srs_proxy_mesh_unanswered", "Requests to other nodes that were not answered.", counters.unanswered),
        ("srs_proxy_mesh_bad_posts", "Posts of other nodes that made no sense.", counters.bad_posts),
    ] {
        out.counter(plain(name, help), value)?;
    }
    cluster.traffic.as_ref().map_or(Ok(()), |traffic| write_traffic(traffic, out))
}

fn write_traffic(traffic: &Traffic, out: &mut Families<'_>) -> fmt::Result {
    let directions =
        |sent, received| [(vec![("direction", "sent")], sent), (vec![("direction", "received")], received)];
    out.counters(
        plain("srs_proxy_mesh_gossip_packets", "Packets of gossip, those that were dropped included."),
        directions(traffic.sent, traffic.received),
    )?;
    out.counters(
        bytes("srs_proxy_mesh_gossip", "Bytes in packets of gossip, without the headers of UDP and IP."),
        directions(traffic.sent_bytes, traffic.received_bytes),
    )?;
    let by_reason = |counts: &[(&'static str, u64)]| -> Vec<_> {
        counts.iter().map(|(reason, n)| (vec![("reason", *reason)], *n)).collect()
    };
    out.counters(
        plain(
            "srs_proxy_mesh_gossip_dropped",
            "Connections, messages and posts of gossip that were refused or dropped.",
        ),
        by_reason(&traffic.dropped),
    )?;
    out.counters(
        plain("srs_proxy_mesh_rpc_refused", "Connections and calls of others that were refused."),
        by_reason(&traffic.refused),
    )
}

/// By the names that all exporters use.
fn write_process(process: &Process, out: &mut Families<'_>) -> fmt::Result {
    out.counter(seconds("process_cpu", "CPU time that the process has used."), process.cpu)?;
    out.gauge(bytes("process_resident_memory", "Memory that the process has in use."), process.resident)?;
    out.gauge(bytes("process_virtual_memory", "Address space of the process."), process.virtual_memory)?;
    out.gauge(plain("process_open_fds", "Open file descriptors."), process.open_fds)?;
    if let Some(max) = process.max_fds {
        out.gauge(plain("process_max_fds", "Open file descriptors that the process may have."), max)?;
    }
    out.gauge(plain("process_threads", "Threads of the process."), process.threads)?;
    out.gauge(seconds("process_start_time", "When the process started, since 1970."), process.started)
}
