"""What tests of several rooms share. No test lives here."""
