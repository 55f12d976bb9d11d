//! Logs: on standard error, for people or for programs.

use std::io::{self, IsTerminal};

use tracing::Subscriber;
use tracing_subscriber::{
    filter::{EnvFilter, ParseError},
    fmt::MakeWriter,
    util::{SubscriberInitExt, TryInitError},
};

use crate::config::{Log, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter says nothing that can be understood.
    #[error(transparent)]
    Filter(#[from] ParseError),
    /// The process has a log already.
    #[error(transparent)]
    Taken(#[from] TryInitError),
}

/// Starts the log of the process. Colours are for terminals, where nobody asked for none
/// (<https://no-color.org>).
pub fn init(log: &Log) -> Result<(), LogError> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    subscriber(log, io::stderr, io::stderr().is_terminal() && !plain)?.try_init()?;
    Ok(())
}

fn subscriber<W>(log: &Log, writer: W, colours: bool) -> Result<Box<dyn Subscriber + Send + Sync>, ParseError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().with_regex(false).parse(&log.filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    Ok(match log.format {
        LogFormat::Text => Box::new(lines.with_ansi(colours).compact().finish()),
        LogFormat::Json => {
            Box::new(lines.with_ansi(false).json().flatten_event(true).with_current_span(false).finish())
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::Value;
    use tracing::{debug, info, info_span, subscriber::with_default};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, format: LogFormat) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { filter: filter.into(), format };
        with_default(subscriber(&log, move || writer.clone(), false).unwrap(), || {
            let _span = info_span!("rtmp", peer = "1.2.3.4:5").entered();
            info!(rtmp = "[::]:1935", "listening");
            debug!("details");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_one_plain_line_an_event_with_its_span() {
        let text = logged("info", LogFormat::Text);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("INFO") && text.contains("peer=\"1.2.3.4:5\"") && text.contains("listening"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line_with_the_fields_at_the_top() {
        let text = logged("debug", LogFormat::Json);
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "listening");
        assert_eq!(lines[0]["rtmp"], "[::]:1935");
        assert_eq!(lines[0]["spans"][0]["peer"], "1.2.3.4:5");
        assert_eq!(lines[1]["level"], "DEBUG");
    }

    #[test]
    fn directives_choose_by_module() {
        assert!(logged("warn", LogFormat::Text).is_empty());
        assert!(logged("warn,srs_proxy=debug", LogFormat::Text).contains("details"));
    }
}
