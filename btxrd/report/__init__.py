"""Tables, figures, sentences and the page that holds them: all that people read."""
