# farrow with R on both ends: the client is R too, and elements and values travel as R serializes them.
# Uses curl and sha256sum, which have what base R lacks. Answers each line of input as program.py does.
folder <- commandArgs(TRUE)[1]
path <- function(name) file.path(folder, name)

# No token in a program's arguments.
headers <- path("headers")
invisible(file.create(headers))
invisible(Sys.chmod(headers, "600"))
writeLines(paste("Authorization: Bearer", Sys.getenv("FARROW_TOKEN")), headers)

api <- function(route, ...) {
  url <- paste0(Sys.getenv("FARROW_URL"), "/v1/", route)
  answer <- system2("curl", c("-sS", "-H", shQuote(paste0("@", headers)), ..., shQuote(url)), stdout = TRUE)
  paste(answer, collapse = "\n")
}

# A frame is a length, a letter and what was serialized.
to_frames <- function(elements) {
  letter <- charToRaw("v")
  unlist(lapply(elements, function(x) {
    bytes <- serialize(x, NULL)
    c(writeBin(length(bytes), raw(), endian = "little"), letter, bytes)
  }))
}

from_frames <- function(bytes, count) {
  values <- vector("list", count)
  at <- 0
  for (i in seq_len(count)) {
    length <- readBin(bytes[at + 1:4], "integer", endian = "little")
    stopifnot(bytes[at + 5] == charToRaw("v"))
    values[[i]] <- unserialize(bytes[at + 5 + seq_len(length)])
    at <- at + 5 + length
  }
  values
}

map <- function(source, elements) {
  writeBin(to_frames(elements), path("elements"))
  digest <- paste0("sha256:", sub(" .*", "", system2("sha256sum", shQuote(path("elements")), stdout = TRUE)))
  api(paste0("blobs/", digest), "-T", shQuote(path("elements")))
  job <- sprintf('{"runtime": "r", "function": "%s", "elements": {"blob": "%s"}, "options": {"encoding": "rds"}}',
                 source, digest)
  writeLines(job, path("job"))
  answer <- api("jobs", "-H", "Content-Type:application/json", "--data-binary", shQuote(paste0("@", path("job"))))
  id <- sub('.*"id":"([^"]*)".*', "\\1", answer)
  repeat {
    status <- api(paste0("jobs/", id, "/value?wait=30"), "-o", shQuote(path("value")), "-w", "%{http_code}")
    if (status == "200") break
    if (status != "202") stop(answer, readLines(path("value"), warn = FALSE))
  }
  from_frames(readBin(path("value"), "raw", file.size(path("value"))), length(elements))
}

input <- file("stdin", "r")
while (length(line <- readLines(input, 1))) {
  size <- as.numeric(strsplit(line, " ")[[1]][2])
  elements <- as.list(seq_len(size) + 0)
  began <- Sys.time()
  value <- map("function(x) x + 1", elements)
  seconds <- as.numeric(Sys.time() - began, units = "secs")
  stopifnot(identical(unlist(value), unlist(elements) + 1))
  cat(sprintf("%.6f\n", seconds))
}
