"""What a method is put on: a base, where its parts are, and the factory that joins the two."""
