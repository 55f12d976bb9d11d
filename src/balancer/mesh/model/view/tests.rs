use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const FRESH: Duration = Duration::from_secs(2);
const STABLE_FOR: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(1);

/// A moment before a time.
fn before(time: Duration) -> Duration {
    time.saturating_sub(MOMENT)
}

fn node(n: usize) -> NodeId {
    format!("n{n}").as_str().into()
}

fn run(n: usize, generation: u64) -> Incarnation {
    Incarnation { node: node(n), generation }
}

fn info(state: NodeState, view: u64) -> NodeInfo {
    NodeInfo { state, grpc: "127.0.0.1:1".into(), view, version: "1".into() }
}

fn names() -> impl Iterator<Item = String> {
    (0..10_000).map(|n| format!("v/app/stream-{n}"))
}

/// What node 0 sees, which serves like those in `others`.
fn view_of(others: &[usize], now: Instant) -> View {
    let mut view = View::new(run(0, 1), FRESH);
    view.set_state(NodeState::Serving, now);
    view.set_live(&others.iter().map(|n| run(*n, 1)).collect(), now);
    for n in others {
        view.set_info(&run(*n, 1), info(NodeState::Serving, 0), now);
    }
    view
}

fn homes(view: &View) -> HashMap<String, NodeId> {
    names().map(|name| (name.clone(), view.home(&name, &[]).unwrap())).collect()
}

/// Says of all other nodes that they see what this one sees.
fn agree(view: &mut View, others: &[usize], now: Instant) {
    let hash = view.hash();
    for n in others {
        view.set_info(&run(*n, 1), info(NodeState::Serving, hash), now);
    }
}

fn consulted(view: &View, now: Instant) -> Vec<NodeId> {
    view.to_consult(now).into_iter().map(|address| address.node).collect()
}

/// A piece of news, as it comes from the board.
#[derive(Debug, Clone)]
enum GossipEvent {
    Live(BTreeSet<Incarnation>),
    Post(Incarnation, NodeInfo),
}

fn tell(view: &mut View, news: &GossipEvent, now: Instant) -> Changed {
    match news {
        GossipEvent::Live(live) => view.set_live(live, now),
        GossipEvent::Post(from, info) => view.set_info(from, info.clone(), now),
    }
}

fn any_state() -> impl Strategy<Value = NodeState> {
    use NodeState::{Draining, Joining, Left, Serving};
    prop_oneof![Just(Joining), Just(Serving), Just(Draining), Just(Left)]
}

proptest! {
    #[test]
    fn who_serves_does_not_depend_on_the_order_of_the_news(
        nodes in prop::collection::vec((prop::collection::btree_set(any_state(), 1..4), 1..3u64), 1..5),
        order in prop::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        // What each run posts comes in the order of its life, and who lives comes in order too; nothing
        // else is certain.
        let mut queues: Vec<Vec<GossipEvent>> = Vec::new();
        let mut live = BTreeSet::new();
        let mut lives = Vec::new();
        let mut expected = BTreeSet::new();
        for (n, (states, generations)) in nodes.iter().enumerate() {
            for generation in 1..=*generations {
                live.retain(|seen: &Incarnation| seen.node != node(n));
                live.insert(run(n, generation));
                lives.push(GossipEvent::Live(live.clone()));
                let posts = states.iter().map(|state| GossipEvent::Post(run(n, generation), info(*state, 0)));
                queues.push(posts.collect());
            }
            if states.last() == Some(&NodeState::Serving) {
                expected.insert(run(n, *generations));
            }
        }
        lives.push(GossipEvent::Live(live));
        queues.push(lives);

        let now = Instant::now();
        let mut view = View::new(run(99, 1), FRESH);
        let mut order = order.iter().cycle();
        while queues.iter().any(|queue| !queue.is_empty()) {
            let waiting: Vec<_> = (0..queues.len()).filter(|i| !queues[*i].is_empty()).collect();
            let next = order.next().map_or(0, |index| waiting[index.index(waiting.len())]);
            let news = queues[next].remove(0);
            tell(&mut view, &news, now);
        }
        prop_assert_eq!(view.serving(), &expected);
        prop_assert_eq!(view.hash(), hash(&expected));
    }
}

#[test]
fn all_who_see_the_same_nodes_name_the_same_home_and_order() {
    let now = Instant::now();
    let views: Vec<_> = (0..5)
        .map(|me| {
            let mut view = View::new(run(me, 1), FRESH);
            for n in (0..5).rev().filter(|n| *n != me) {
                view.set_info(&run(n, 1), info(NodeState::Serving, 0), now);
            }
            view.set_live(&(0..5).map(|n| run(n, 1)).collect(), now);
            view.set_state(NodeState::Serving, now);
            view
        })
        .collect();
    for name in names().take(100) {
        let ranked = views[0].ranked(&name);
        assert_eq!(ranked.iter().collect::<BTreeSet<_>>().len(), 5, "{ranked:?}");
        for view in &views {
            assert_eq!(view.hash(), views[0].hash());
            assert_eq!(view.ranked(&name), ranked);
            assert_eq!(view.home(&name, &[]).as_ref(), ranked.first());
            assert_eq!(view.home(&name, &ranked[..2]).as_ref(), ranked.get(2));
        }
    }
}

#[test]
fn a_node_that_comes_or_goes_changes_the_home_of_its_share_only() {
    let now = Instant::now();
    let (without, with) = (homes(&view_of(&[1, 2, 3], now)), homes(&view_of(&[1, 2, 3, 4], now)));
    let mut moved = 0;
    for (name, home) in &with {
        if *home == node(4) {
            moved += 1;
        } else {
            assert_eq!(home, &without[name], "{name}");
        }
    }
    assert!((1_700..2_300).contains(&moved), "{moved} of 10,000 for one of five");
}

#[test]
fn the_shares_of_the_nodes_are_even() {
    let mut shares: HashMap<NodeId, usize> = HashMap::new();
    for home in homes(&view_of(&[1, 2, 3, 4], Instant::now())).into_values() {
        *shares.entry(home).or_default() += 1;
    }
    assert_eq!(shares.len(), 5);
    assert!(shares.values().all(|share| (1_700..2_300).contains(share)), "{shares:?}");
}

#[test]
fn while_nobody_serves_those_that_drain_decide() {
    let now = Instant::now();
    let mut view = View::new(run(0, 1), FRESH);
    view.set_live(&[run(1, 1)].into(), now);
    view.set_info(&run(1, 1), info(NodeState::Joining, 0), now);
    assert_eq!(view.home("a", &[]), None);
    view.set_state(NodeState::Draining, now);
    assert_eq!(view.home("a", &[]), Some(node(0)));
    view.set_info(&run(1, 1), info(NodeState::Serving, 0), now);
    assert_eq!(view.ranked("a"), [node(1)]);
}

#[test]
fn a_view_is_settled_once_all_agree_and_nothing_has_changed_for_a_while() {
    let start = Instant::now();
    let mut view = view_of(&[1, 2], start);
    assert!(!view.stable(STABLE_FOR, start + STABLE_FOR), "the others announce something else");
    let hash = view.hash();
    view.set_info(&run(1, 1), info(NodeState::Serving, hash), start);
    assert!(!view.stable(STABLE_FOR, start + STABLE_FOR), "node 2 still does");
    view.set_info(&run(2, 1), info(NodeState::Serving, hash), start);
    assert!(!view.stable(STABLE_FOR, start + before(STABLE_FOR)));
    assert!(view.stable(STABLE_FOR, start + STABLE_FOR));

    assert!(view.stable(STABLE_FOR, start + FRESH));
    assert!(!view.stable(STABLE_FOR, start + FRESH + MOMENT), "nobody was heard for too long");
    view.heard(&node(1), start + FRESH);
    assert!(!view.stable(STABLE_FOR, start + FRESH + MOMENT), "node 2 was not");
    view.heard(&node(2), start + FRESH);
    assert!(view.stable(STABLE_FOR, start + FRESH + MOMENT));
}

#[test]
fn who_joins_need_not_agree_and_who_is_not_known_yet_must() {
    let start = Instant::now();
    let mut view = view_of(&[1], start);
    agree(&mut view, &[1], start);
    let later = start + STABLE_FOR;
    assert!(view.stable(STABLE_FOR, later));
    view.set_live(&[run(1, 1), run(2, 1)].into(), later);
    assert!(!view.stable(STABLE_FOR, later), "it may serve, for all that is known");
    view.set_info(&run(2, 1), info(NodeState::Joining, 0), later);
    assert!(view.stable(STABLE_FOR, later));
    let changed = view.set_info(&run(2, 1), info(NodeState::Draining, 0), later);
    assert_eq!(changed, Changed::default(), "it never served");
    assert!(!view.stable(STABLE_FOR, later), "it may have decided, and sees something else");
}

#[test]
fn each_change_of_who_serves_or_lives_begins_the_calm_anew() {
    let start = Instant::now();
    let mut view = view_of(&[1, 2], start);
    agree(&mut view, &[1, 2], start);
    let later = start + STABLE_FOR;
    assert!(view.stable(STABLE_FOR, later));
    let changed = view.set_live(&[run(1, 1)].into(), later);
    assert_eq!(changed, Changed { gone: vec![node(2)], seen: vec![], serving: true });
    agree(&mut view, &[1], later);
    assert!(!view.stable(STABLE_FOR, later + before(STABLE_FOR)));
    assert!(view.stable(STABLE_FOR, later + STABLE_FOR));
}

#[test]
fn a_node_that_left_is_gone_at_once_and_asked_nothing() {
    let now = Instant::now();
    let mut view = view_of(&[1, 2], now);
    let changed = view.set_info(&run(1, 1), info(NodeState::Left, 0), now);
    assert_eq!(changed, Changed { gone: vec![node(1)], seen: vec![], serving: true });
    assert_eq!(consulted(&view, now), [node(2)]);
    // It is still seen until its silence is noticed.
    assert_eq!(view.set_live(&[run(1, 1), run(2, 1)].into(), now), Changed::default());
    assert_eq!(view.serving().iter().map(|run| run.node.clone()).collect::<Vec<_>>(), [node(0), node(2)]);
}

#[test]
fn a_node_that_died_is_asked_for_a_while_and_may_come_back() {
    let start = Instant::now();
    let mut view = view_of(&[1, 2], start);
    view.set_live(&[run(2, 1)].into(), start);
    assert_eq!(consulted(&view, start + before(REMEMBERED)), [node(1), node(2)]);
    assert_eq!(consulted(&view, start + REMEMBERED), [node(2)]);
    let changed = view.set_live(&[run(1, 1), run(2, 1)].into(), start + REMEMBERED);
    assert_eq!(changed, Changed { gone: vec![], seen: vec![run(1, 1)], serving: true });
    assert_eq!(consulted(&view, start + REMEMBERED), [node(1), node(2)]);
}

#[test]
fn a_new_run_of_a_node_takes_the_place_of_the_old_one_whichever_news_comes_first() {
    let live = |runs: &[u64]| GossipEvent::Live(runs.iter().map(|generation| run(1, *generation)).collect());
    let post = |generation| GossipEvent::Post(run(1, generation), info(NodeState::Serving, 0));
    let orders = [
        vec![live(&[2]), post(2)],
        vec![post(2), live(&[2])],
        vec![live(&[]), post(2), live(&[2])],
        vec![live(&[]), live(&[2]), post(2)],
        vec![live(&[2]), post(2), post(1), live(&[1])],
    ];
    for order in orders {
        let now = Instant::now();
        let mut view = view_of(&[1], now);
        let (mut gone, mut seen) = (Vec::new(), Vec::new());
        for news in &order {
            let changed = tell(&mut view, news, now);
            gone.extend(changed.gone);
            seen.extend(changed.seen);
        }
        assert_eq!(view.serving(), &[run(0, 1), run(1, 2)].into(), "{order:?}");
        assert_eq!((gone, seen), (vec![node(1)], vec![run(1, 2)]), "{order:?}");
    }
}

#[test]
fn a_node_that_does_not_answer_is_left_alone_for_a_while_or_until_it_does() {
    let now = Instant::now();
    let mut view = view_of(&[1], now);
    view.answered(&node(1), false, now);
    assert!(view.is_unresponsive(&node(1), now + before(UNRESPONSIVE)));
    assert!(!view.is_unresponsive(&node(1), now + UNRESPONSIVE));
    assert_eq!(consulted(&view, now), [node(1)], "but it is asked where it counts");
    view.answered(&node(1), true, now);
    assert!(!view.is_unresponsive(&node(1), now));
}

#[test]
fn what_others_say_of_this_node_changes_nothing() {
    let now = Instant::now();
    let mut view = view_of(&[], now);
    assert_eq!(view.set_live(&[run(0, 1), run(0, 9)].into(), now), Changed::default());
    assert_eq!(view.set_info(&run(0, 9), info(NodeState::Left, 0), now), Changed::default());
    assert_eq!((view.members().count(), view.state()), (0, NodeState::Serving));
}

#[test]
fn the_nodes_that_are_remembered_are_bounded_in_number_and_time() {
    let start = Instant::now();
    let mut view = View::new(run(0, 1), FRESH);
    for n in 1..=MAX_MEMBERS + 10 {
        view.set_info(&run(n, 1), info(NodeState::Serving, 0), start);
    }
    assert_eq!(view.members().count(), MAX_MEMBERS);
    view.set_live(&(1..=MAX_MEMBERS + 10).map(|n| run(n, 1)).collect(), start);
    assert_eq!((view.members().count(), view.serving().len()), (MAX_MEMBERS, MAX_MEMBERS));
    view.set_live(&[run(1, 1)].into(), start);
    view.set_live(&[run(1, 1)].into(), start + REMEMBERED * 6);
    assert_eq!(view.members().count(), 1, "those that died are forgotten in the end");
}
