//! The drills.

mod abandoned;
mod dead_home;
mod first_try;
mod flood;
mod held;
mod hold;
mod idle;
mod loss;
mod malformed;
mod partition;
mod place;
mod race;
mod ready;
mod statefulset;

use crate::{
    Result,
    options::{Drill, Options},
    report::Report,
    support::netns::Network,
};

/// Runs one; `network` is there if it needs one.
pub async fn run(drill: Drill, options: &Options, network: Option<&Network>, report: &mut Report) -> Result<()> {
    let network = network.ok_or("the drill needs a network of its own");
    match drill {
        Drill::FirstTry => first_try::run(options, report).await,
        Drill::Race => race::run(options, report).await,
        Drill::Place => place::run(options, report).await,
        Drill::Hold => hold::run(options, report).await,
        Drill::DeadHome => dead_home::run(options, report).await,
        Drill::Ready => ready::run(options, report).await,
        Drill::Idle => idle::run(options, network?, report).await,
        Drill::Partition => partition::run(options, network?, report).await,
        Drill::Loss => loss::run(options, report).await,
        Drill::Flood => flood::run(options, report).await,
        Drill::Abandoned => abandoned::run(options, report).await,
        Drill::Malformed => malformed::run(options, report).await,
        Drill::StatefulSet => statefulset::run(options, network?, report).await,
    }
}
