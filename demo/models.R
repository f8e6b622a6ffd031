# Prints models.json: mtcars, which comes with R, as one array of rows a gear.
columns <- c("mpg", "cyl", "hp", "wt", "gear")
row <- function(car) {
  cells <- sprintf('"%s": %s', columns, vapply(car[columns], format, "", digits = 15))
  paste0("{", paste(cells, collapse = ", "), "}")
}
group <- function(cars) {
  rows <- vapply(split(cars, seq_len(nrow(cars))), row, "")
  paste0("    [\n      ", paste(rows, collapse = ",\n      "), "\n    ]")
}
elements <- paste(vapply(split(mtcars, mtcars$gear), group, ""), collapse = ",\n")
cat('{\n  "name": "models by gear",\n  "runtime": "r",\n',
    '  "function": "function(.x) coef(lm(mpg ~ cyl + hp + wt, data = .x))",\n',
    '  "elements": [\n', elements, '\n  ]\n}\n', sep = "")
