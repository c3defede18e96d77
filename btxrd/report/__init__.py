"""Tables, figures and sentences for people to read, and the page that holds them."""
