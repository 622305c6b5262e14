"""Write the report, the model card and the plots of a run folder."""
