"""What people read: tables, figures, sentences and the page that holds them."""
