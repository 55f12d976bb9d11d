//! The text format that Prometheus had before OpenMetrics.

/// Turns an answer in OpenMetrics into one in the older format (0.0.4): there the name of a counter
/// ends in `_total` everywhere, that of an information in `_info`, which is a gauge, and there are
/// neither units nor an end.
pub(super) fn from_openmetrics(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    // The type follows the help, and says how the name in both is written.
    let mut help = None;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some((_, help)) = help.take().filter(|(helped, _)| *helped == name) {
                out.extend(["# HELP ", name, suffix, " ", help, "\n"]);
            }
            out.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            out.extend([line, "\n"]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_the_older_format_wants_and_samples_stay() {
        let openmetrics = "# HELP b The build.\n# TYPE b info\nb_info{v=\"1\"} 1\n\
            # HELP x_bytes Bytes.\n# TYPE x_bytes counter\n# UNIT x_bytes bytes\nx_bytes_total{a=\"# b\"} 7\n\
            # HELP g A gauge.\n# TYPE g gauge\ng 3\n# EOF\n";
        let classic = "# HELP b_info The build.\n# TYPE b_info gauge\nb_info{v=\"1\"} 1\n\
            # HELP x_bytes_total Bytes.\n# TYPE x_bytes_total counter\nx_bytes_total{a=\"# b\"} 7\n\
            # HELP g A gauge.\n# TYPE g gauge\ng 3\n";
        assert_eq!(from_openmetrics(openmetrics), classic);
    }
}
