# The loop of farrow's R worker: jobs, and elements. `worker.R` reads it into its environment.

# ---- The job --------------------------------------------------------------------------------

# `frame` is in sight where the function is called: below the global environment, so that user code finds
# there what it expects, and its parent.frame() is not this script's.
job <- NULL

# Sets a job up. Gives NULL, or why that cannot be done.
prepare <- function(request) {
  if (!is.null(job)) reset()
  job <<- request[c("conditions", "variant", "type", "encoding", "notes", "is_call")]
  job$finishes <<- job$variant == "walk" || job$type != "list" || job$encoding == "bytes"
  job$steps <<- job$is_call || job$notes
  use_cores(request$cores, request$core_variables)
  for (part in c(load_packages, load_constants, load_code)) {
    problem <- part(request)
    if (!is.null(problem)) return(problem)
  }
  NULL
}

load_packages <- function(request) {
  for (package in request$packages) {
    problem <- attempt(load_package(package))
    if (!is.null(problem)) return(missing_package(package, problem))
  }
}

load_constants <- function(request) {
  for (field in c("args", "globals")) {
    stored <- request[[paste0("stored_", field)]]
    serialized <- request[[paste0("serialized_", field)]]
    for (name in union(stored, serialized)) {
      content <- request[[field]][[name]]
      problem <- attempt(value <- if (name %in% stored) {
        read_file(content, name %in% serialized)
      } else {
        read_rds(content)
      })
      if (!is.null(problem)) {
        return(unreadable_constant(field, name, name %in% serialized, problem))
      }
      request[[field]][name] <- list(value)
    }
  }
  job$args <<- request$args
  list2env(request$globals, globalenv())
  NULL
}

load_code <- function(request) {
  for (part in c("setup", "function")) {
    value <- NULL
    problem <- attempt(
      code <- parse(text = request[[part]], keep.source = FALSE, encoding = "UTF-8"))
    if (!is.null(problem)) return(syntax_error(part, problem))
    # What a call is made of runs as its element.
    if (part == "function" && job$is_call) break
    problem <- attempt(for (expression in code) value <- eval(expression, globalenv()))
    if (!is.null(problem)) return(problem)
  }
  job$frame <<- new.env(parent = globalenv())
  job$fn <<- if (job$is_call) code else as_callable(value)
  if (!job$is_call && !is.function(job$fn)) no_function(value)
}

unreadable_constant <- function(field, name, is_serialized, problem) {
  wrong <- if (is_serialized) "is not what R's serialize() or saveRDS() writes" else "cannot be read"
  failure("Untranslatable", paste0("`", field, ".", name, "` ", wrong, ": ", problem$message))
}

load_package <- function(package) {
  before <- names(options())
  suppressPackageStartupMessages(library(package, character.only = TRUE))
  # The namespace stays loaded after a reset, so what it has set when it was loaded must stay too.
  added <- setdiff(names(options()), before)
  baseline$options <<- c(baseline$options, options()[added])
  baseline$namespaces <<- union(baseline$namespaces, loadedNamespaces())
}

missing_package <- function(package, problem) {
  if (problem$kind == "packageNotFoundError") {
    problem$message <- paste0(
      "there is no package called `", package, "` on this agent; install it there, for example ",
      "with Rscript -e 'install.packages(\"", package, "\")'")
  }
  problem
}

# R says `<text>:2:5: unexpected symbol` and then quotes the lines.
syntax_error <- function(part, problem) {
  pattern <- "^<text>:([0-9]+):([0-9]+): "
  message <- problem$message
  if (grepl(pattern, message)) {
    where <- sub(paste0(pattern, ".*"), "line \\1, column \\2", strsplit(message, "\n")[[1L]][1L])
    message <- paste0(where, " of the ", part, ": ", sub(pattern, "", message))
  }
  failure("SyntaxError", message)
}

no_function <- function(value) {
  failure("NotAFunction", paste0(
    "the value of `function` is of class `", class(value)[1L], "`; it must be a function, ",
    "such as function(x) x + 1, a formula, such as ~ .x + 1, or the name of a function"))
}

use_cores <- function(cores, variables) {
  options(mc.cores = cores)
  values <- rep(as.character(cores), length(variables))
  do.call(Sys.setenv, as.list(structure(values, names = variables)))
}

# ---- Elements -------------------------------------------------------------------------------

# Outcomes that are finished wait for others at most so many seconds, and for the element that runs then; those
# of so few elements for none.
flush_after <- 0.005
few <- 8L
# After elements that took so many seconds together, the agent may want those behind them back.
slow <- 0.01
most_conditions <- 100L
# An element in which the process forked took more seconds: 0.002 and more where it was measured, since the kernel
# copies the tables of R's memory. To ask each whether it is in a child would cost a small one a fifth of its time, for
# that asks the kernel. Whoever sends or receives asks again.
quickest_fork <- 5e-5

# Runs the elements of a frame, and those of the frames that follow it: handlers, and what else surrounds elements,
# cost more than a small one, and several times that behind one that slept, when nothing of it is in the processor's
# caches. So they are set once, and set again only after an error. Ends at the first frame that is none of elements.
#
# `position` is the element that runs, `sent` the last whose outcome is sent.
run <- function() {
  batch <- elements <- values <- value <- apart <- failed <- problem <- NULL
  n <- position <- sent <- signalled <- ours <- 0L
  running <- steps <- reads <- FALSE
  latest <- flushed_at <- seen <- -1
  # With the encoding rds: values must be vectors in memory, and some elements take a step.
  is_rds <- job$encoding == "rds"
  has_fields <- job$notes || is_rds
  always_steps <- job$steps
  frame <- job$frame
  invoke <- caller(element_call(list(quote(element))), frame)
  step <- stepper(frame, function() batch, function() position)
  # A step and its invoke(); or its evaluate(), which counts twice.
  deep <- if (job$is_call) 3L else 2L
  restore_sinks()
  output_before <- printed()
  # R finds a name of this function at once, and others behind all of these.
  pid <- self
  may_be_compact <- is_rds && !knows_compact
  counted <- counter

  # Begins with the frame that has arrived.
  start <- function() {
    batch <<- unserialize(arrived$body)
    arrived <<- NULL
    elements <<- if (has_fields) batch$elements else batch
    n <<- length(elements)
    values <<- vector("list", n)
    # Which values are more than bare vectors; see pack_outcomes().
    apart <<- logical(n)
    failed <<- list()
    position <<- sent <<- signalled <<- 0L
    reads <<- is_rds && batch$reads
    frame$f <- job$fn
    frame$args <- job$args
    latest <<- if (n > few) flush_after else -1
    seen <<- flushed_at <<- .Internal(Sys.time())
  }

  # Ends a frame, and begins the next one. Whether there is one.
  proceed <- function() {
    if (sent < n) deliver(FALSE)
    frame$element <- NULL
    if (messages_go_to() != 2L) sink(type = "message")
    # Nothing is kept while the agent has nothing to do.
    batch <<- elements <<- values <<- value <<- apart <<- NULL
    arrived <<- receive()
    if (arrived$kind != "E") return(FALSE)
    start()
    TRUE
  }

  # `loud`: the element at `position` has printed, or could have without being noticed.
  deliver <- function(loud) {
    # Times below 0: the clock was set back.
    waits <- position < n && (loud || .Internal(Sys.time()) - flushed_at > slow)
    if (signalled > most_conditions) {
      text <- paste(signalled - most_conditions, "more messages and warnings were dropped")
      send("c", pack(list(position - 1L, "note", text, NULL)))
    }
    signalled <<- 0L
    range <- (sent + 1L):position
    kind <- if (loud) "p" else if (waits) "w" else "o"
    if (job$finishes) {
      send_finished(values[range], failed, batch$indexes[range], kind)
    } else {
      send_outcomes(values[range], which(apart[range]), failed, kind)
    }
    # What is left is the agent's then.
    if (waits && !may_go_on()) n <<- position
    values[range] <<- list(NULL)
    failed <<- list()
    sent <<- position
    flushed_at <<- .Internal(Sys.time())
    output_before <<- printed()
    counted <<- counter
  }

  on_condition <- function(kind, restart) {
    force(kind)
    force(restart)
    function(condition) {
      # In a forked child they go their usual way.
      if (!running || Sys.getpid() != self) return()
      if (kind == "warning") {
        level <- getOption("warn", 0L)
        if (level >= 2L) return()
        if (level < 0L) unwrap(restart, condition)
      }
      if (job$conditions) {
        signalled <<- signalled + 1L
        if (signalled <= most_conditions) send_condition(position, kind, condition)
      }
      unwrap(restart, condition)
    }
  }

  on_error <- function(condition) {
    if (!running) return()
    calls <- if (!inherits(condition, "farrow_refusal")) sys.calls()
    problem <<- describe(condition, calls, ours + if (steps) deep else 1L)
  }

  start()
  while (is.null(arrived)) {
    withRestarts(tryCatch(withCallingHandlers({
      # What stands above the element's own call: these, and invoke(), or what `deep` says.
      ours <- depth()
      while (position < n || proceed()) {
        position <- position + 1L
        frame$element <- elements[[position]]
        steps <- always_steps || reads && is.raw(elements[[position]])
        running <- TRUE
        value <- if (steps) step() else invoke()
        # To read the empty symbol, such as a formal argument without a default, is an error: the element's.
        value
        running <- FALSE
        if (!is.null(value)) {
          values[[position]] <- value
          # Unlike is.atomic(), these take no time once they are compiled.
          is_bare <- (is.double(value) || is.character(value) || is.logical(value) ||
            is.integer(value)) && is.null(attributes(value))
          if (!is_bare || may_be_compact ||
            is_rds && !is.null(.Internal(altrep_class(value)))) apart[[position]] <- TRUE
        }
        now <- .Internal(Sys.time())
        took <- now - seen
        seen <- now
        if ((took > quickest_fork || took < 0) && .Internal(Sys.getpid()) != pid) end_if_forked()
        if (.Internal(sink.number(TRUE)) != 1L) {
          restore_sinks()
          deliver(TRUE)
        } else if (.Internal(seek(counted, NA_real_, 1L, 2L)) != output_before) {
          deliver(TRUE)
        } else {
          since <- now - flushed_at
          if (since > latest || since < 0 || signalled > 0L) deliver(FALSE)
        }
      }
    },
    error = on_error,
    warning = on_condition("warning", "muffleWarning"),
    message = on_condition("message", "muffleMessage")),
    error = function(e) if (is.null(problem)) problem <<- describe(e)),
    abort = function(...) {
      problem <<- failure("abort", "the code invoked the restart `abort`")
    })
    end_if_forked()
    if (!is.null(problem)) {
      # This line is all that is known of a worker that ends between elements.
      if (!running) stop(paste(c(problem$message, problem$call), collapse = ", in "), call. = FALSE)
      running <- FALSE
      failed[[length(failed) + 1L]] <- c(list(position = position - sent - 1L), problem)
      problem <- NULL
      loud <- sinks() != 1L
      if (loud) restore_sinks()
      loud <- loud || printed() != output_before
      since <- .Internal(Sys.time()) - flushed_at
      if (loud || signalled > 0L || since > latest || since < 0) deliver(loud)
    }
  }
}

# ---- The loop -------------------------------------------------------------------------------

# The frame that is to be served next. Whoever serves it clears it, for it may be large, and what is handed over as an
# argument is kept as long as the call.
arrived <- NULL

serve <- function() {
  repeat {
    if (is.null(arrived)) arrived <<- receive()
    switch(arrived$kind,
      J = {
        request <- unserialize(arrived$body)
        arrived <<- NULL
        problem <- prepare(request)
        request <- NULL
        send("j", if (is.null(problem)) raw() else pack(problem))
      },
      E = run(),
      R = {
        rests <- length(arrived$body) > 0L
        arrived <<- NULL
        if (!is.null(job)) reset()
        if (rests) gc(FALSE)
        send("r")
      },
      leave())
  }
}

# Begins to serve the agent, once all parts are there.
begin <- function() {
  # Strings cross as UTF-8, and a service's locale is often C, in which R cannot print them.
  if (!l10n_info()[["UTF-8"]]) suppressWarnings(Sys.setlocale("LC_CTYPE", "C.UTF-8"))
  # Warnings of a setup script are shown when they are signalled, since the top level never returns.
  options(warn = 1L, keep.source = FALSE)
  loadNamespace("tools")
  # R compiles a function of the user's when it is called for the second time, and reads each function that it compiles
  # with when it first needs it: ten milliseconds of somebody's second element, were it not for this.
  eapply(asNamespace("compiler"), force, all.names = TRUE)
  compiler::cmpfun(function(x) if (x > 0) Sys.sleep(x) else x + 1)
  # The first collection looks at all that R has loaded: ten milliseconds more.
  gc(full = FALSE)
  baseline <<- remember()
  open_channels()
  count_output()
  send("h", charToRaw(paste0("{\"version\": \"", getRversion(), "\"}")))
  serve()
}
