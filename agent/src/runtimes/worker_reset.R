# The part of farrow's R worker that makes it forget a job. `worker.R` reads it into its
# environment.

# What a new process has, taken once before any user code.
remember <- function() {
  list(
    options = options(), variables = Sys.getenv(), search = search(), folder = getwd(),
    libraries = .libPaths(), locale = Sys.getlocale(), umask = Sys.umask(),
    namespaces = loadedNamespaces(), jit = compiler::enableJIT(-1L))
}

# Leaves the worker as a new process would be, or ends it where it cannot.
reset <- function() {
  clean <- tryCatch({
    # In this order: setTimeLimit() looks at the session's, and stops where that is over.
    setSessionTimeLimit()
    setTimeLimit()
    # User code may have made warnings errors.
    options(warn = 1L)
    restore_streams()
    stop_children()
    restore_search()
    restore_options()
    restore_surroundings()
    forget_globals()
    TRUE
  }, error = function(e) {
    cat("farrow: this worker ends because it cannot be reset: ", conditionMessage(e), "\n",
        sep = "", file = stderr())
    FALSE
  })
  if (!clean) leave()
  job <<- NULL
}

restore_streams <- function() {
  if ("grDevices" %in% loadedNamespaces()) grDevices::graphics.off()
  while (sink.number() > 0L) sink()
  sink(type = "message")
  ensure_channels()
  kept <- c(0L, 1L, 2L, as.integer(input), as.integer(output))
  for (connection in setdiff(getAllConnections(), kept)) {
    tryCatch(close(getConnection(connection)), error = function(e) NULL, warning = function(w) NULL)
  }
  count_output()
}

stop_children <- function() {
  if (!"parallel" %in% loadedNamespaces()) return()
  for (child in parallel:::children()) {
    tools::pskill(child$pid, 9L)
    suppressWarnings(parallel::mccollect(child, wait = TRUE))
  }
}

restore_search <- function() {
  for (name in setdiff(search(), baseline$search)) {
    while (name %in% search()) detach(name, character.only = TRUE)
  }
  stopifnot(identical(search(), baseline$search))
}

# These set no options when they are loaded.
base_packages <- c(
  "compiler", "grid", "parallel", "splines", "stats4", "tcltk", "tools", "utils", "graphics")

# A namespace that user code loaded by itself may need the options that it has set, and cannot be
# relied on to unload: then only a new process is clean.
restore_options <- function() {
  added <- setdiff(names(options()), names(baseline$options))
  # R adds this one by itself.
  added <- setdiff(added, c("mc.cores", "error.messages"))
  known <- c(baseline$namespaces, base_packages)
  loaded <- setdiff(loadedNamespaces(), known)
  stopifnot(length(added) == 0L || length(loaded) == 0L)
  options(structure(vector("list", length(added) + 1L), names = c("mc.cores", added)))
  options(baseline$options)
}

restore_surroundings <- function() {
  now <- Sys.getenv()
  then <- baseline$variables
  Sys.unsetenv(setdiff(names(now), names(then)))
  changed <- names(then)[!(names(then) %in% names(now)) | now[names(then)] != then]
  if (length(changed) > 0L) do.call(Sys.setenv, as.list(then[changed]))
  setwd(baseline$folder)
  # To set them takes R a look at each folder on their way.
  if (!identical(.libPaths(), baseline$libraries)) .libPaths(baseline$libraries)
  if (Sys.getlocale() != baseline$locale) Sys.setlocale("LC_ALL", baseline$locale)
  Sys.umask(baseline$umask)
  compiler::enableJIT(baseline$jit)
  for (callback in getTaskCallbackNames()) removeTaskCallback(callback)
  .Internal(seterrmessage(""))
}

# Classes and generics that were defined there are known elsewhere too: then only a new process is
# clean. Without `.Random.seed`, R draws a new seed when it needs one.
forget_globals <- function() {
  RNGkind("default", "default", "default")
  names <- ls(globalenv(), all.names = TRUE)
  stopifnot(!any(startsWith(names, ".__")))
  rm(list = names, envir = globalenv())
}
