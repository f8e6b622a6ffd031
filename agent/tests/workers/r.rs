//! What is R's own.

use agent::runtimes::WorkerJob;
use protocol::job::Runtime::R;
use protocol::job::{Options, Variant};
use serde_json::{Value, json};

use crate::harness::{Worker, elements, job, json_values, worker};

/// What an R expression is as JSON.
fn evaluate(worker: &mut Worker, expression: &str) -> Value {
    worker.prepare(&job(&format!("function(x) {expression}")));
    worker.value("0")
}

#[test]
fn functions_are_named_or_formulas_or_made() {
    let sources = ["function(x) x + 1", "~ .x + 1", "\"add\"", "add", "~ . + 1", "local(add)"];
    let mut worker = Worker::start(R);
    for source in sources {
        worker.prepare(&WorkerJob { setup: "add <- function(x) x + 1".into(), ..job(source) });
        assert_eq!(worker.value("2"), json!(3.0), "{source}");
    }
}

#[test]
fn each_class_has_its_likeness() {
    let rows = [
        ("NULL", json!(null)),
        ("NA", json!(null)),
        ("c(1.5, NA)", json!([1.5, null])),
        ("c(TRUE, NA)", json!([true, null])),
        ("c('a', NA)", json!(["a", null])),
        ("1L", json!(1)),
        ("I(1L)", json!([1])),
        ("1:3", json!([1, 2, 3])),
        ("as.numeric(1:3)", json!([1.0, 2.0, 3.0])),
        ("seq(2, 6, by = 2)", json!([2.0, 4.0, 6.0])),
        ("10:8", json!([10, 9, 8])),
        ("as.character(1:3)", json!(["1", "2", "3"])),
        ("as.character(c(0.1, 1e5, 1/3))", json!(["0.1", "1e+05", "0.333333333333333"])),
        ("sort(c(3, 1, 2))", json!([1.0, 2.0, 3.0])),
        ("sort(c('b', 'a'))", json!(["a", "b"])),
        ("integer()", json!([])),
        ("list()", json!([])),
        ("list(1L)", json!([1])),
        ("list(1L, 'a', NULL)", json!([1, "a", null])),
        ("setNames(list(), character())", json!({})),
        ("list(a = 1L, b = list(c = 2:3))", json!({"a": 1, "b": {"c": [2, 3]}})),
        ("c(a = 1L)", json!({"a": 1})),
        ("list(a = 1L, 2L, a = 3L)", json!({"a": 1, "2": 2, "a.1": 3})),
        ("matrix(1:6, 2)", json!([[1, 3, 5], [2, 4, 6]])),
        ("array(1:8, c(2, 2, 2))", json!([[[1, 5], [3, 7]], [[2, 6], [4, 8]]])),
        ("data.frame(a = 1:2, b = c('x', NA))", json!([{"a": 1, "b": "x"}, {"a": 2, "b": null}])),
        ("data.frame()", json!([])),
        ("data.frame(a = 1:2)[, 0]", json!([{}, {}])),
        ("factor(c('u', 'v', NA))", json!(["u", "v", null])),
        (
            "data.frame(f = factor('u'), d = as.Date('2026-08-01'))",
            json!([{"f": "u", "d": "2026-08-01"}]),
        ),
        ("as.Date(c('2024-02-29', NA))", json!(["2024-02-29", null])),
        ("as.POSIXct('2026-08-01 09:30:00', tz = 'UTC')", json!("2026-08-01T09:30:00Z")),
        (
            "{ d <- data.frame(a = 1:2); d$l <- list(1:2, 'x'); d }",
            json!([{"a": 1, "l": [1, 2]}, {"a": 2, "l": "x"}]),
        ),
        (
            "{ d <- data.frame(a = 1L); d$n <- data.frame(b = 2L); d }",
            json!([{"a": 1, "n": {"b": 2}}]),
        ),
        (
            "structure(data.frame(a = 1L), class = c('tbl_df', 'tbl', 'data.frame'))",
            json!([{"a": 1}]),
        ),
        ("model.frame(mpg ~ cyl, mtcars[1, ])", json!([{"mpg": 21.0, "cyl": 6.0}])),
        (
            "structure(data.frame(a = 1L), f = compiler::cmpfun(function(x) if (x) y ~ z else { for (i in x) break }), p = methods::getGenerics)",
            json!([{"a": 1}]),
        ),
        ("iconv('é', 'UTF-8', 'latin1')", json!("é")),
        ("rapply(list(a = 1L), function(v) v + 1L, how = 'list')", json!({"a": 2})),
    ];
    let mut worker = Worker::start(R);
    for (expression, expected) in rows {
        assert_eq!(evaluate(&mut worker, expression), expected, "{expression}");
    }
}

#[test]
fn the_empty_symbol_is_the_error_of_the_element_that_gives_it() {
    let run = worker(R, "function(x) if (x == 1) formals(lm)$data else x").run(&["1", "2"]);
    assert!(run.error(0).message.contains("missing"), "{:?}", run.error(0));
    assert_eq!(run.outcomes[1].as_deref(), Ok("2"));
}

#[test]
fn what_has_no_likeness_is_named_with_its_place() {
    let rows = [
        ("c(1, NaN)", "`[2]` is NaN"),
        ("list(a = Inf)", "`$a` is Inf"),
        ("sum", "is of type `function`"),
        ("list(f = compiler::cmpfun(function(x) x))", "`$f` is of type `function`"),
        (
            "{ f <- function(a, b = 2, ...) { for (i in 1:3) { a <- a + i; if (a > b) break }; switch(a, x = 1, sapply(1, function(z) z ~ a)) }; for (i in 1:3) f(1); list(a = 1, f) }",
            "`$`2`` is of type `function`",
        ),
        ("list(a = list(1, environment()))", "`$a[[2]]` is of type `environment`"),
        ("list(`odd name` = 1i)", "$`odd name`` is of type `complex`"),
        ("as.raw(1)", "is of type `raw`"),
        ("quote(a + b)", "is of type `language`"),
        ("quote(a)", "is of type `name`"),
        ("y ~ x", "is of class `formula`"),
        ("lm(mpg ~ cyl, mtcars)", "is of class `lm`"),
        ("table(c(1, 1))", "is of class `table`"),
        ("as.POSIXlt(Sys.time())", "is of class `POSIXlt`"),
        ("structure(1, class = 'integer64')", "is of class `integer64`"),
        ("asNamespace('stats')", "is of type `environment`"),
        ("numeric_version('1.0')", "is of class `numeric_version`"),
        ("getClass('numeric')", "is of class `classRepresentation`"),
        ("expression(a, 1)", "is of type `expression`"),
        ("'\\xff\\xfe'", "not UTF-8"),
        (
            "structure(list(), class = 'data.frame', names = character(), row.names = c(NA, -2000000L))",
            "has 2000000 rows and not one cell",
        ),
        ("matrix(0, 2e6, 0)", "has 2000000 rows and not one cell"),
        ("array(0, c(1000, 1000, 1000, 0))", "has 1000000000 rows and not one cell"),
        ("array(1, rep(1, 1000))", "is an array of more than 256 dimensions"),
        ("1:2e9", "is a sequence of 2000000000 numbers"),
        ("structure(1:2e9, class = 'Date')", "is a sequence of 2000000000 numbers"),
        ("as.character(1:1e9)", "is of type `text of 1000000000 numbers`"),
        ("data.frame(a = 1, m = I(matrix(1:2, 1)))", "`$m` is a matrix"),
    ];
    let mut worker = Worker::start(R);
    for (expression, why) in rows {
        worker.prepare(&job(&format!("function(x) if (x) {expression} else 1L")));
        let run = worker.run(&["true", "false"]);
        let error = run.error(0);
        assert_eq!(error.kind, "Untranslatable", "{expression}: {error:?}");
        assert!(error.message.contains(why), "{expression}: {}", error.message);
        assert_eq!(run.outcomes[1].as_deref(), Ok("1"), "{expression}");
    }
}

#[test]
fn arrays_of_objects_are_data_frames() {
    let mtcars =
        r#"[{"mpg": 21, "cyl": 6, "name": "a"}, {"mpg": 22.8, "cyl": 4}, {"mpg": 18.7, "cyl": 8}]"#;
    let mut worker =
        worker(R, "function(d) list(coef(lm(mpg ~ cyl, d)), vapply(d, class, ''), is.na(d$name))");
    let value = worker.value(mtcars);
    let intercept = value[0]["(Intercept)"].as_f64().unwrap();
    assert!((intercept - 26.983_333_333_333_3).abs() < 1e-10, "{value}");
    assert_eq!(value[1], json!({"mpg": "numeric", "cyl": "integer", "name": "character"}));
    assert_eq!(value[2], json!([false, true, true]));
}

#[test]
fn user_code_that_masks_base_breaks_nothing() {
    let masking = "c <- 3; T <- 0; serialize <- unserialize <- writeBin <- eval <- length <- identical <- \
                   sink <- `[[` <- `if` <- function(...) stop('masked'); \
                   forceAndCall <- 1; f <- 2; element <- 3; function(x) { rm(list = ls(globalenv()), envir = globalenv()); x }";
    let mut worker = worker(R, masking);
    assert_eq!(worker.run(&["1", "2"]).values(), [json!(1), json!(2)]);
    assert!(worker.reset());
    worker.prepare(&job("function(x) ls(globalenv(), all.names = TRUE)"));
    assert_eq!(worker.value("1"), json!([]));
}

#[test]
fn code_may_write_where_it_is_called_from() {
    let mut worker = worker(
        R,
        "function(x) { assign('f', 1, parent.frame()); environmentName(topenv(parent.frame())) }",
    );
    assert_eq!(worker.run(&["1", "2"]).values(), [json!("R_GlobalEnv"), json!("R_GlobalEnv")]);
    assert_eq!(worker.run(&["1"]).values(), [json!("R_GlobalEnv")]);
    let code = "function(x, i) { assign('f', function(...) 'another', parent.frame()); x }";
    let options = Options { variant: Variant::Imap, ..Options::default() };
    let outcomes = worker.outcomes(&WorkerJob { options, ..job(code) }, &elements(&["1", "2"]));
    assert_eq!(json_values(outcomes), [json!(1), json!(2)]);
}

#[test]
fn closing_all_connections_closes_none_of_ours() {
    let code = "function(x) { if (x == 2) { closeAllConnections(); kept <<- lapply(1:3, function(i) file(tempfile(), 'w')) }; cat('out'); x }";
    let mut worker = worker(R, code);
    let run = worker.run(&["1", "2", "3"]);
    let printed: String = run.printed.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(printed, "outoutout");
    assert_eq!(run.values(), [json!(1), json!(2), json!(3)]);
    assert_eq!(worker.run(&["4"]).values(), [json!(4)]);
    assert!(worker.reset());
    // Those that user code left open are closed: standard ones, ours, and the counter stay.
    assert_eq!(evaluate(&mut worker, "length(getAllConnections())"), json!(6));
}

#[test]
fn sinks_end_with_their_element() {
    let code = "function(x) { if (x == 1) sink(tempfile()); if (x %in% c(2, 4)) while (sink.number() > 0) sink(); cat('out', x); if (x == 4) stop('no'); utils::capture.output(print(x)) }";
    let mut worker = worker(R, code);
    for (element, printed) in [("1", ""), ("2", "out 2"), ("3", "out 3")] {
        let run = worker.run(&[element]);
        let text = run.printed.iter().map(|(_, text)| text.as_str()).collect::<String>();
        assert_eq!(text, printed);
        assert_eq!(run.values(), [json!(format!("[1] {element}"))]);
    }
    let own = |(at, x): (usize, &str)| (at, format!("out {x}"));
    let elements = ["2", "3", "4", "3"];
    assert_eq!(
        worker.run(&elements).printed,
        elements.into_iter().enumerate().map(own).collect::<Vec<_>>()
    );
}

#[test]
fn messages_and_warnings_tell_class_and_call() {
    let code = "function(x) { message('told'); g <- function() warning('odd'); g(); \
                warning(structure(class = c('mine', 'warning', 'condition'), list(message = 'own', call = NULL))); \
                suppressWarnings(warning('hidden')); 0L }";
    let run = worker(R, code).run(&["1"]);
    let got: Vec<_> = run
        .conditions
        .iter()
        .map(|(_, found)| (found.kind.as_str(), found.message.as_str(), found.call.as_deref()))
        .collect();
    assert_eq!(
        got,
        [("message", "told", None), ("warning", "odd", Some("g()")), ("mine", "own", None)]
    );
}

#[test]
fn options_for_warnings_are_obeyed() {
    let run =
        worker(R, "function(x) { options(warn = x); warning('w'); 0L }").run(&["2", "-1", "0"]);
    assert!(run.error(0).message.contains("converted from warning"), "{:?}", run.error(0));
    assert_eq!(run.conditions.len(), 1);
    assert_eq!(run.conditions[0].0, 2);
}

#[test]
fn a_message_of_any_class_is_a_message() {
    let code = "function(x) { message(structure(class = c('note', 'message', 'condition'), list(message = 'own'))); \
                warning(structure(class = c('odd', 'warning', 'condition'), list(message = 'own'))); 0L }";
    let run = worker(R, code).run(&["1"]);
    let kinds: Vec<&str> = run.conditions.iter().map(|(_, said)| said.kind.as_str()).collect();
    assert_eq!(kinds, ["message", "odd"]);
}

#[test]
fn an_own_condition_is_an_error_with_its_class() {
    let code = "function(x) stop(structure(class = c('my_error', 'error', 'condition'), list(message = 'own', call = quote(here(1)))))";
    let run = worker(R, code).run(&["1"]);
    let error = run.error(0);
    assert_eq!((error.kind.as_str(), error.call.as_deref()), ("my_error", Some("here(1)")));
    let run =
        worker(R, "function(x) if (x) invokeRestart('abort') else 1L").run(&["true", "false"]);
    assert_eq!(run.error(0).kind, "abort");
    assert_eq!(run.outcomes[1].as_deref(), Ok("1"));
}

#[test]
fn a_reset_leaves_nothing() {
    let state = "function(x) list(ls(globalenv(), all.names = TRUE), getOption('digits'), getOption('mine'), \
                 Sys.getenv('MINE'), Sys.getenv('HOME'), basename(getwd()), 'package:tools' %in% search(), \
                 RNGkind(), length(grDevices::dev.list()), sink.number(), getOption('warn'), as.integer(Sys.umask()), length(parallel:::children()), \
                 geterrmessage(), getTaskCallbackNames(), compiler::enableJIT(-1))";
    let disturb = "function(x) { a <<- 1; set.seed(1, 'Wichmann-Hill'); options(digits = 3, mine = 1, warn = 2); \
                   Sys.setenv(MINE = 'x', HOME = '/nowhere'); setwd('/'); library(tools); Sys.umask('077'); \
                   pdf(NULL); sink(tempfile()); parallel::mcparallel(Sys.sleep(1000)); setTimeLimit(elapsed = 1000); \
                   try(stop('mine')); addTaskCallback(function(...) TRUE); compiler::enableJIT(0); 0L }";
    let mut worker = worker(R, state);
    let before = worker.value("1");
    worker.prepare(&job(disturb));
    worker.value("1");
    worker.prepare(&job(state));
    assert_eq!(worker.value("1"), before);
    assert!(worker.reset());
}

#[test]
fn a_limit_of_the_session_is_not_the_next_jobs() {
    let mut worker = worker(R, "function(x) { setSessionTimeLimit(elapsed = 0.5); x }");
    worker.value("1");
    // R looks at its limits when it has called a thousand functions, and when it waits.
    worker.prepare(&job("function(x) { Sys.sleep(1); for (i in 1:10000) identity(i); x }"));
    assert_eq!(worker.value("2"), 2);
}

#[test]
fn the_random_stream_is_new_after_a_reset() {
    let mut worker = worker(R, "function(x) { set.seed(1); runif(1) }");
    let seeded = worker.value("1");
    worker.prepare(&job(
        "function(x) { n <- exists('.Random.seed', globalenv()); list(n, runif(1)) }",
    ));
    let fresh = worker.value("1");
    assert_eq!(fresh[0], json!(false));
    assert_ne!(fresh[1], seeded);
}

#[test]
fn a_worker_that_cannot_be_clean_ends() {
    let stains =
        ["setClass('Mine', representation(x = 'numeric'))", "lockEnvironment(globalenv())"];
    for stain in stains {
        let mut worker = worker(R, &format!("function(x) {{ left <<- 1; {stain}; x }}"));
        worker.value("1");
        assert!(!worker.reset(), "{stain}");
        worker.join();
    }
}

#[test]
fn printing_does_not_fill_the_memory() {
    let peak = "max(as.integer(sub('\\\\D+(\\\\d+).*', '\\\\1', grep('VmHWM', readLines('/proc/self/status'), value = TRUE))))";
    let code = format!(
        "function(x) {{ line <- strrep('x', 9999); before <- {peak}; for (i in 1:10000) cat(line, '\\n'); {peak} - before }}"
    );
    let mut worker = worker(R, &code);
    let run = worker.run(&["1"]);
    assert!(run.printed[0].1.len() > 100_000_000);
    let grown = run.values()[0].as_i64().unwrap();
    assert!(grown < 20_000, "{grown} kB");
}

#[test]
fn a_large_element_is_not_kept_while_others_run() {
    let used = "function(x) { n <- nchar(x); round(gc()[\"Vcells\", 2]) }";
    let mut worker = worker(R, used);
    let large = format!("\"{}\"", "x".repeat(100_000_000));
    let [megabytes_then, megabytes_now] = [&*large, "1"].map(|element| {
        // Of the frame before this one, what is left is collected now.
        worker.run(&[element]).values()[0].as_f64().unwrap()
    });
    assert!(megabytes_then >= 95.0, "{megabytes_then}");
    assert!(megabytes_now < megabytes_then - 90.0, "{megabytes_then}, then {megabytes_now}");
}
