"""How git sees notebooks that were run: as they are kept. The README says how to set it up."""

c = get_config()  # noqa: F821 - nbconvert defines it
c.NbConvertApp.export_format = "notebook"
c.NbConvertApp.log_level = 40
c.ClearOutputPreprocessor.enabled = True
c.ClearMetadataPreprocessor.enabled = True
c.ClearMetadataPreprocessor.preserve_cell_metadata_mask = {"tags", "jupyter"}
c.ClearMetadataPreprocessor.preserve_nb_metadata_mask = {"kernelspec", ("language_info", "name")}
