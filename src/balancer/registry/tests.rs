use super::*;
use crate::origin::Endpoint;

const TTL: Duration = Duration::from_mins(5);
const ALMOST_TTL: Duration = Duration::from_millis(299_999);

fn origin(server: &str, pid: &str, address: &str) -> Origin {
    let (ip, port) = address.rsplit_once(':').unwrap();
    let body = format!(r#"{{"ip":"{ip}","server":"{server}","service":"s","pid":"{pid}","rtmp":["{port}"]}}"#);
    Origin::from_heartbeat(body.as_bytes(), "").unwrap()
}

struct Scene {
    registry: Registry,
    now: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { registry: Registry::new(TTL, 4), now: Instant::now() }
    }

    /// Sends a heartbeat; gives the names of the changes.
    fn beat(&mut self, server: &str, pid: &str, address: &str) -> Result<String, BalancerError> {
        let mut changes = Vec::new();
        self.registry.register(origin(server, pid, address), self.now, &mut changes)?;
        Ok(names(&changes))
    }

    fn report(&mut self, id: &str, seen: Reachability) -> String {
        let mut changes = Vec::new();
        self.registry.report(&OriginId::from(id), seen, self.now, &mut changes);
        names(&changes)
    }

    fn ids(&self) -> String {
        self.registry.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>().join(" ")
    }
}

fn names(changes: &[Change]) -> String {
    let name = |change: &Change| match change {
        Change::Registered(new) => format!("+{}", new.id()),
        Change::Replaced { old, new } => format!("{}>{}", old.id(), new.id()),
        Change::Contested { returned, others } => {
            format!("{}={}", returned.id(), others.iter().map(|o| o.id().to_string()).collect::<Vec<_>>().join(","))
        }
        Change::Suspected { id, .. } => format!("?{id}"),
        Change::Cleared { id, by } => format!("!{id} by {by}"),
        Change::Expired { id, .. } => format!("-{id}"),
    };
    changes.iter().map(name).collect::<Vec<_>>().join(" ")
}

#[test]
fn each_change_is_told_once_and_a_heartbeat_without_news_tells_nothing() {
    let mut scene = Scene::new();
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "+a-s-1");
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "");
    assert_eq!(scene.report("a-s-1", Reachability::Failed("refused".into())), "?a-s-1");
    assert_eq!(scene.report("a-s-1", Reachability::Failed("timed out".into())), "");
    let entry = scene.registry.get(&OriginId::from("a-s-1")).unwrap();
    assert_eq!(entry.suspect_reason.as_deref(), Some("timed out"), "the latest reason is kept");
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "!a-s-1 by heartbeat");
    assert_eq!(scene.report("a-s-1", Reachability::Failed("refused".into())), "?a-s-1");
    assert_eq!(scene.report("a-s-1", Reachability::Reached), "!a-s-1 by connection");
    assert_eq!(scene.report("a-s-1", Reachability::Reached), "");
    scene.now += TTL;
    assert_eq!(scene.report("a-s-1", Reachability::Reached), "-a-s-1");
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "+a-s-1");
}

#[test]
fn the_time_of_expiry_follows_the_heartbeats() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    scene.now += TTL / 2;
    assert_eq!(scene.beat("b", "1", "10.0.0.2:1935").unwrap(), "+b-s-1");
    scene.now += ALMOST_TTL.saturating_sub(TTL / 2);
    assert_eq!(scene.beat("b", "1", "10.0.0.2:1935").unwrap(), "");
    scene.now += Duration::from_millis(1);
    assert_eq!(scene.beat("c", "1", "10.0.0.3:1935").unwrap(), "-a-s-1 +c-s-1");
    scene.now += ALMOST_TTL;
    assert_eq!(scene.beat("c", "1", "10.0.0.3:1935").unwrap(), "-b-s-1");
}

#[test]
fn an_origin_that_takes_another_ones_address_replaces_it() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    assert_eq!(scene.beat("b", "1", "10.0.0.1:1935").unwrap(), "a-s-1>b-s-1");
    scene.beat("c", "1", "10.0.0.1:1936").unwrap();
    // A reload moves an origin that is known to an address that is taken.
    assert_eq!(scene.beat("c", "1", "10.0.0.1:1935").unwrap(), "b-s-1>c-s-1");
    assert_eq!(scene.ids(), "c-s-1");
}

#[test]
fn cloned_server_ids_are_told_once_and_then_live_side_by_side() {
    let mut scene = Scene::new();
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "+a-s-1");
    assert_eq!(scene.beat("a", "2", "10.0.0.2:1935").unwrap(), "a-s-1>a-s-2");
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "a-s-1=a-s-2");
    for _ in 0..3 {
        assert_eq!(scene.beat("a", "2", "10.0.0.2:1935").unwrap(), "");
        assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "");
    }
    // The restart of one of them is told by its address, and leaves the other alone.
    assert_eq!(scene.beat("a", "3", "10.0.0.2:1935").unwrap(), "a-s-2>a-s-3");
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "");
    assert_eq!(scene.ids(), "a-s-1 a-s-3");
}

#[test]
fn origins_that_claim_one_address_and_all_send_heartbeats_do_not_replace_each_other_for_ever() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "127.0.0.1:1935").unwrap();
    assert_eq!(scene.beat("b", "1", "127.0.0.1:1935").unwrap(), "a-s-1>b-s-1");
    assert_eq!(scene.beat("a", "1", "127.0.0.1:1935").unwrap(), "a-s-1=b-s-1");
    assert_eq!(scene.beat("b", "1", "127.0.0.1:1935").unwrap(), "");
    assert_eq!(scene.beat("a", "1", "127.0.0.1:1935").unwrap(), "");
}

#[test]
fn an_origin_that_others_knew_before_replaces_only_who_claims_its_address() {
    let mut scene = Scene::new();
    let mut adopt = |server: &str, pid: &str, address: &str| {
        let mut changes = Vec::new();
        scene.registry.adopt(origin(server, pid, address), scene.now, &mut changes).unwrap();
        names(&changes)
    };
    assert_eq!(adopt("a", "1", "10.0.0.1:1935"), "+a-s-1");
    assert_eq!(adopt("a", "2", "10.0.0.2:1935"), "+a-s-2");
    assert_eq!(adopt("b", "1", "10.0.0.2:1935"), "a-s-2>b-s-1");
    scene.now += TTL;
    assert_eq!(scene.report("x", Reachability::Reached), "-a-s-1 -b-s-1");
}

#[test]
fn an_origin_that_others_have_forgotten_is_told_as_expired() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    let mut changes = Vec::new();
    scene.registry.remove(&OriginId::from("a-s-1"), scene.now, &mut changes);
    scene.registry.remove(&OriginId::from("a-s-1"), scene.now, &mut changes);
    assert_eq!(names(&changes), "-a-s-1");
    assert_eq!(scene.beat("a", "2", "10.0.0.1:1935").unwrap(), "+a-s-2", "nobody was replaced");
}

#[test]
fn an_origin_that_was_replaced_long_ago_is_a_new_one() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    scene.beat("a", "2", "10.0.0.2:1935").unwrap();
    scene.now += ALMOST_TTL;
    scene.beat("a", "2", "10.0.0.2:1935").unwrap();
    scene.now += Duration::from_millis(1);
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "a-s-2>a-s-1");
}

#[test]
fn the_configured_backend_gives_way_to_the_same_origin_when_it_registers_itself() {
    let mut scene = Scene::new();
    assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "+default-x-s-1");
    assert_eq!(scene.beat("a", "1", "127.0.0.1:1935").unwrap(), "default-x-s-1>a-s-1");
    assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "");
    assert_eq!(scene.ids(), "a-s-1");
    scene.now += TTL;
    assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "-a-s-1 +default-x-s-1");
}

#[test]
fn the_configured_backend_gives_way_to_a_heartbeat_that_came_to_another_node_too() {
    let mut scene = Scene::new();
    scene.beat("default-x", "1", "127.0.0.1:1935").unwrap();
    let mut changes = Vec::new();
    scene.registry.observe(&origin("a", "1", "127.0.0.1:1935"), scene.now, scene.now, &mut changes);
    assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "default-x-s-1>a-s-1");
    assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "");
    assert_eq!(scene.ids(), "a-s-1");
}

#[test]
fn nodes_that_differ_about_the_configured_backend_tell_nothing_and_the_last_wins() {
    let mut scene = Scene::new();
    let configured = |http: &str| Origin {
        http: vec![Endpoint::parse(http).unwrap()],
        ..origin("default-10.0.0.1:1935", "0", "10.0.0.1:1935")
    };
    let mut changes = Vec::new();
    for http in ["8080", "8081", "8080", "8081"] {
        scene.registry.register(configured(http), scene.now, &mut changes).unwrap();
        let kept: Vec<_> = scene.registry.iter().map(|(_, entry)| entry.origin.http.clone()).collect();
        assert_eq!(kept, [configured(http).http]);
    }
    assert_eq!(names(&changes), "+default-10.0.0.1:1935-s-0");
}

#[test]
fn a_refresh_of_the_configured_backend_proves_nothing() {
    let mut scene = Scene::new();
    scene.beat("default-x", "1", "127.0.0.1:1935").unwrap();
    scene.report("default-x-s-1", Reachability::Failed("refused".into()));
    assert_eq!(scene.beat("default-x", "1", "127.0.0.1:1935").unwrap(), "");
    assert_eq!(scene.report("default-x-s-1", Reachability::Reached), "!default-x-s-1 by connection");
}

#[test]
fn a_full_registry_refuses_newcomers_but_not_restarts() {
    let mut scene = Scene::new();
    for i in 1..=4 {
        scene.beat(&format!("a{i}"), "1", &format!("10.0.0.{i}:1935")).unwrap();
    }
    let error = scene.beat("a5", "1", "10.0.0.5:1935").unwrap_err();
    assert!(error.to_string().contains("PROXY_MAX_ORIGINS"), "{error}");
    assert_eq!(scene.beat("a4", "2", "10.0.0.4:1935").unwrap(), "a4-s-1>a4-s-2");
    assert!(scene.beat("a4", "1", "10.0.0.4:1935").is_err(), "returned, but there is no room");
    assert_eq!(scene.ids(), "a1-s-1 a2-s-1 a3-s-1 a4-s-2");
    scene.now += TTL;
    assert!(scene.beat("a5", "1", "10.0.0.5:1935").is_ok(), "room is made by those who expired");
}

#[test]
fn what_is_remembered_of_replaced_origins_is_bounded() {
    let mut scene = Scene::new();
    for pid in 0..1000 {
        scene.now += Duration::from_millis(1);
        scene.beat("a", &pid.to_string(), "10.0.0.1:1935").unwrap();
    }
    assert_eq!(scene.ids(), "a-s-999");
    assert_eq!(scene.registry.replaced.len(), 4);
    assert!(scene.registry.replaced.contains_key(&OriginId::from("a-s-998")), "the latest are kept");
}

#[test]
fn a_long_reason_is_cut_at_a_character() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    scene.report("a-s-1", Reachability::Failed("é".repeat(1000)));
    let entry = scene.registry.get(&OriginId::from("a-s-1")).unwrap();
    assert_eq!(entry.suspect_reason.as_ref().unwrap().len(), MAX_REASON);
}

#[test]
fn a_heartbeat_that_came_to_another_node_counts_from_when_it_came() {
    let mut scene = Scene::new();
    let mut changes = Vec::new();
    let heartbeat = scene.now;
    let mut seen = origin("a", "1", "10.0.0.1:1935");
    scene.now += TTL / 2;
    scene.registry.observe(&seen, heartbeat, scene.now, &mut changes);
    assert_eq!(names(&changes), "+a-s-1");
    assert_eq!(scene.registry.get(&seen.id()).unwrap().heartbeat_age(scene.now), TTL / 2);

    // News may come late, and out of order.
    seen.software = "later".into();
    scene.registry.observe(&seen, scene.now, scene.now, &mut changes);
    scene.registry.observe(&seen, heartbeat, scene.now, &mut changes);
    let entry = scene.registry.get(&seen.id()).unwrap();
    assert_eq!((entry.heartbeat_age(scene.now), entry.origin.software.as_str()), (Duration::ZERO, "later"));
    assert_eq!(names(&changes), "+a-s-1");

    scene.now += ALMOST_TTL;
    assert_eq!(scene.report("x", Reachability::Reached), "");
    scene.now += Duration::from_millis(1);
    assert_eq!(scene.report("x", Reachability::Reached), "-a-s-1");
    let too_old = scene.now.checked_sub(TTL).unwrap();
    scene.registry.observe(&seen, too_old, scene.now, &mut changes);
    assert_eq!(scene.ids(), "");
}

#[test]
fn a_heartbeat_that_came_to_another_node_decides_nothing_about_others_and_clears_nothing() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    scene.report("a-s-1", Reachability::Failed("refused".into()));
    let mut changes = Vec::new();
    for pid in ["1", "2", "3", "4", "5"] {
        scene.registry.observe(&origin("a", pid, "10.0.0.1:1935"), scene.now, scene.now, &mut changes);
    }
    assert_eq!(names(&changes), "+a-s-2 +a-s-3 +a-s-4", "and there is no room for more");
    assert_eq!(scene.registry.get(&OriginId::from("a-s-1")).unwrap().state(), OriginState::Suspect);
}

#[test]
fn an_origin_that_another_node_saw_replaced_is_gone_and_lives_beside_the_others_if_it_returns() {
    let mut scene = Scene::new();
    scene.beat("a", "1", "10.0.0.1:1935").unwrap();
    scene.registry.retire(&OriginId::from("a-s-1"), scene.now);
    assert_eq!(scene.ids(), "");
    let mut changes = Vec::new();
    scene.registry.observe(&origin("a", "2", "10.0.0.2:1935"), scene.now, scene.now, &mut changes);
    assert_eq!(scene.beat("a", "1", "10.0.0.1:1935").unwrap(), "a-s-1=a-s-2");
    assert_eq!(scene.ids(), "a-s-1 a-s-2");
    for pid in 0..1000 {
        scene.registry.retire(&OriginId::from(format!("b-s-{pid}").as_str()), scene.now);
    }
    assert_eq!(scene.registry.replaced.len(), 4, "what is remembered of them is bounded");
}

#[test]
fn an_origin_that_others_have_known_for_longer_expires_by_its_own_heartbeat() {
    let mut scene = Scene::new();
    scene.now += TTL / 2;
    scene.beat("b", "1", "10.0.0.2:1935").unwrap();
    let mut changes = Vec::new();
    let heartbeat = scene.now.checked_sub(TTL / 2).unwrap();
    scene.registry.adopt(origin("a", "1", "10.0.0.1:1935"), heartbeat, &mut changes).unwrap();
    scene.now += TTL / 2;
    assert_eq!(scene.report("x", Reachability::Reached), "-a-s-1");
    assert_eq!(scene.ids(), "b-s-1");
}
