"""Raw log rows, the checked events made from them, and the window of events of one user bucket."""
