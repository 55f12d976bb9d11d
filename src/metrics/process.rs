//! What the system knows of this process.

/// The process, as the system sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Process {
    /// CPU time used, in seconds.
    pub cpu: f64,
    /// Memory that is in use, in bytes.
    pub resident: u64,
    /// Address space, in bytes.
    pub virtual_memory: u64,
    pub open_fds: usize,
    /// None means that there is no limit.
    pub max_fds: Option<u64>,
    pub threads: i64,
    /// When it started, in seconds since 1970.
    pub started: f64,
}

#[cfg(target_os = "linux")]
pub(super) fn read() -> Option<Process> {
    use procfs::{
        boot_time_secs, page_size,
        process::{LimitValue, Process as Entry},
        ticks_per_second,
    };

    let entry = Entry::myself().ok()?;
    let stat = entry.stat().ok()?;
    let ticks = ticks_per_second() as f64;
    Some(Process {
        cpu: (stat.utime + stat.stime) as f64 / ticks,
        resident: stat.rss * page_size(),
        virtual_memory: stat.vsize,
        open_fds: entry.fd_count().ok()?,
        max_fds: match entry.limits().ok()?.max_open_files.soft_limit {
            LimitValue::Value(limit) => Some(limit),
            LimitValue::Unlimited => None,
        },
        threads: stat.num_threads,
        started: boot_time_secs().ok()? as f64 + stat.starttime as f64 / ticks,
    })
}

/// Other systems tell it in other ways.
#[cfg(not(target_os = "linux"))]
pub(super) fn read() -> Option<Process> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{
        fs::File,
        time::{Duration, Instant, SystemTime, UNIX_EPOCH},
    };

    use super::*;

    #[test]
    fn the_numbers_are_those_of_this_process_and_in_base_units() {
        let before = read().unwrap();
        let files: Vec<_> = (0..50).map(|_| File::open("/dev/null").unwrap()).collect();
        let start = Instant::now();
        let mut after = read().unwrap();
        // Ticks of 10 ms are what the system counts by.
        while after.cpu < before.cpu + 0.05 {
            assert!(start.elapsed() < Duration::from_secs(30), "{before:?} {after:?}");
            after = read().unwrap();
        }
        // Other tests run in this process, too.
        assert!(after.open_fds >= files.len(), "{after:?}");
        // No more than all cores can have used, in seconds.
        let cores = std::thread::available_parallelism().unwrap().get() as f64;
        assert!(after.cpu - before.cpu <= (start.elapsed().as_secs_f64() + 0.05) * cores, "{before:?} {after:?}");
        assert!((1 << 20..1 << 36).contains(&after.resident), "{after:?}");
        assert!(after.virtual_memory >= after.resident && after.threads >= 1);
        assert!(after.max_fds.is_none_or(|max| max >= after.open_fds as u64));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
        assert!(before.started == after.started && (now - 3600.0..now + 2.0).contains(&after.started), "{after:?}");
    }
}
