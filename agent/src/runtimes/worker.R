# farrow's R worker: runs elements for an agent, in base R (3.6 or later) alone.
#
# Frames come in on descriptor 3 and go out on descriptor 4 (agent/src/frame.rs); standard output
# and error are the user's. Everything stands in one environment below base, so that nothing a
# user defines in the global environment, `c <- 3` or `rm(list = ls())`, reaches this loop, and
# the loop leaves nothing there.
#
# R compiles a function when it is called for the second time. For those of a worker that takes a tenth of a
# second, in the middle of its first elements; so the agent has the parts compiled once for all workers.
# Where R could not, they are read as they are.
local(envir = new.env(parent = baseenv()), {
  baseline <- NULL
  # R's front end writes `~+~` for a space.
  script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)[1L])
  script <- gsub("~+~", " ", script, fixed = TRUE)
  parts <- paste0("worker_", c("io", "loop", "errors", "calls", "values", "reset"))
  for (part in file.path(dirname(script), parts)) {
    compiled <- paste0(part, ".Rc")
    if (file.exists(compiled)) {
      compiler::loadcmp(compiled, envir = environment())
    } else {
      sys.source(paste0(part, ".R"), envir = environment())
    }
  }
  # R compiles what is called for the second time, and this is called once a job.
  if (!file.exists(compiled)) run <- compiler::cmpfun(run)
  begin()
})
